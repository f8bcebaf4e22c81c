#!/bin/sh
# Everything that a fresh machine needs to pass the tests.
#     sh run_tests.sh                 all but the slow ones
#     sh run_tests.sh -m slow         the slow ones; arguments go to pytest
here=$(cd "$(dirname "$0")" && pwd) || exit 2
. "$here/tools/setup_env.sh"
setup_env requirements-dev.txt cv2 tqdm matplotlib pytest hypothesis sklearn xdist || exit
# One process a core, so one thread a process.
cd "$here" && OMP_NUM_THREADS=1 exec "$PYTHON" -m pytest -n auto --maxprocesses 8 --dist loadfile "$@"
