#!/bin/sh
# Everything that a fresh machine needs to pass the tests.
#     sh run_tests.sh                 all but the slow ones
#     sh run_tests.sh -m slow         the slow ones; arguments go to pytest
#     sh run_tests.sh -m smoke        a few that show that all parts work together
# PYTHON=python3.9 chooses the Python, MULTILABEL_VENV=/path another place than .venv.
here=$(cd "$(dirname "$0")" && pwd) || exit 2
. "$here/tools/setup_env.sh"
setup_env requirements-dev.txt cv2 tqdm matplotlib pytest hypothesis sklearn xdist || exit
# One process per core, so one thread per process.
cd "$here" && OMP_NUM_THREADS=1 exec "$PYTHON" -m pytest -n auto --maxprocesses 8 --dist loadfile "$@"
