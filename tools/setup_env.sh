# Finds a Python that has the packages, or makes a virtual environment beside run_train.sh.
# Read by run_train.sh and run_tests.sh:  setup_env REQUIREMENTS MODULE...  sets PYTHON.
# POSIX sh. $here is the project's folder.

# Whether this Python imports MXNet (through mx_compat) and all the modules named after it.
imports_all() {
    _python=$1
    shift
    (cd "$here" && for _module in mx_compat "$@"; do echo "import $_module"; done |
        "$_python" -) >/dev/null 2>&1
}

# Prints the newest Python that MXNet's wheel runs on and that can make an environment.
find_python() {
    for _name in "${PYTHON:-python3.12}" python3.12 python3.11 python3.10 python3.9 python3.8 \
        python3 python; do
        if "$_name" -c '
import sys, venv, ensurepip
sys.exit(not (3, 8) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1; then
            command -v "$_name"
            return 0
        fi
    done
    return 1
}

setup_env() {
    _requirements=$1
    shift
    _venv=$here/.venv
    if imports_all "${PYTHON:-python3}" "$@"; then
        PYTHON=${PYTHON:-python3}
        return 0
    fi
    if [ -x "$_venv/bin/python" ] && imports_all "$_venv/bin/python" "$@"; then
        PYTHON=$_venv/bin/python
        return 0
    fi
    if ! _base=$(find_python); then
        echo "No Python from 3.8 to 3.12 with venv was found (MXNet 1.9.1 runs on no other)." >&2
        echo "Install one (Debian, Ubuntu: apt-get install python3-venv), or name it: PYTHON=/path/to/python3.11 sh $0" >&2
        return 2
    fi
    echo "Setting up $_venv with $("$_base" --version) (about 150 MB to download, once) ..."
    rm -rf "$_venv"
    PYTHON=$_venv/bin/python
    "$_base" -m venv "$_venv" &&
        "$PYTHON" -m pip install --quiet --disable-pip-version-check -r "$here/$_requirements" || {
        rm -rf "$_venv"
        echo "The packages of $_requirements could not be installed; see above." >&2
        return 2
    }
    # Bare servers have no libGL, which opencv-python wants for its windows. The headless build
    # is the same library without them.
    if ! "$PYTHON" -c 'import cv2' >/dev/null 2>&1; then
        _version=$("$PYTHON" -c 'from importlib.metadata import version; print(version("opencv-python"))')
        "$PYTHON" -m pip uninstall --quiet --yes opencv-python &&
            "$PYTHON" -m pip install --quiet --disable-pip-version-check "opencv-python-headless==$_version"
    fi
    if ! imports_all "$PYTHON" "$@"; then
        echo "The packages are installed, but do not import:" >&2
        (cd "$here" && for _module in mx_compat "$@"; do "$PYTHON" -c "import $_module"; done) >&2
        return 2
    fi
}
