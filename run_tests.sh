#!/bin/sh
# Everything that a fresh machine needs to pass the tests.
#     sh run_tests.sh                 all but the slow ones
#     sh run_tests.sh -m slow         the slow ones; arguments go to pytest
here=$(cd "$(dirname "$0")" && pwd) || exit 2
. "$here/tools/setup_env.sh"
setup_env requirements-dev.txt cv2 tqdm pytest hypothesis sklearn || exit
cd "$here" && exec "$PYTHON" -m pytest "$@"
