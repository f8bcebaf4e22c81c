# Finds a Python that has the packages, or makes a virtual environment beside run_train.sh.
# Read by run_train.sh and run_tests.sh:  setup_env REQUIREMENTS MODULE...  sets PYTHON.
# POSIX sh. $here is the project's folder; $MULTILABEL_VENV is where the environment goes, beside
# run_train.sh by default.

# Whether this Python imports MXNet and all the modules named after it.
imports_all() {
    _python=$1
    shift
    (cd "$here" && for _module in common.mx_compat "$@"; do echo "import $_module"; done |
        "$_python" -) >/dev/null 2>&1
}

# Sets _base to the Python to make an environment with: $PYTHON, else the machine's own python3,
# else another that is installed. Says in one line what is missing.
find_python() {
    for _name in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python3.10 \
        python3.9 python3.8 python}; do
        "$_name" -c '
import sys
sys.exit(not (3, 8) <= sys.version_info[:2] <= (3, 14))' >/dev/null 2>&1 || continue
        if "$_name" -c 'import venv, ensurepip' >/dev/null 2>&1; then
            _base=$_name
            return 0
        fi
        _without_venv=${_without_venv:-$_name}
    done
    if [ -n "${_without_venv:-}" ]; then
        echo "$_without_venv ($("$_without_venv" --version)) lacks its venv module; install it (Debian, Ubuntu: apt-get install python3-venv; Fedora, openSUSE: it comes with python3)." >&2
    else
        echo "${PYTHON:-python3}: no Python from 3.8 to 3.14; install one (apt-get install python3 python3-venv, dnf install python3, zypper install python3) or name one: PYTHON=/path/to/python3 sh $0" >&2
    fi
    return 1
}

install_packages() {
    "$PYTHON" -m pip install --quiet --disable-pip-version-check "$@"
}

# Prints the name of the first shared library that MXNet lacks, nothing when it loads.
missing_library() {
    "$PYTHON" - <<'END'
import ctypes, importlib.util
folder = importlib.util.find_spec("mxnet").submodule_search_locations[0]
try:
    ctypes.CDLL(folder + "/libmxnet.so")
except OSError as error:
    print(str(error).split(":")[0])
END
}

# Prints the copy of a shared library that another package's wheel has brought. MXNet's build for
# 64-bit ARM asks for Arm's BLAS; OpenBLAS has the same functions.
bundled_library() {
    case $1 in
        libarmpl_lp64_mp.so | libamath.so | libastring.so) _pattern='libopenblas*' ;;
        libgomp.so.1 | libquadmath.so.0) _pattern="${1%%.*}-*.so*" ;;
        *) _pattern=$1 ;;
    esac
    find "$_packages" "$_wheels" -path '*.libs/*' -name "$_pattern" 2>/dev/null | head -n 1
}

# Where the system lacks shared libraries that MXNet needs, puts links to other packages' copies
# into MXNet's folder of the environment, where it looks first.
link_libraries() {
    _packages=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    _wheels=$VENV/wheels
    while _library=$(missing_library) && [ -n "$_library" ]; do
        _copy=$(bundled_library "$_library")
        if [ -z "$_copy" ] && [ "$_library" = libgomp.so.1 ] && ! [ -d "$_wheels" ]; then
            # None of the packages needs it, and scikit-learn's wheel brings it.
            install_packages --no-deps --no-compile --target "$_wheels" scikit-learn
            _copy=$(bundled_library "$_library")
        fi
        if [ -z "$_copy" ] || [ -e "$_packages/mxnet/$_library" ]; then
            echo "MXNet needs the shared library $_library; install it (Debian, Ubuntu: apt-get install libgomp1 libquadmath0; Fedora: dnf install libgomp libquadmath; openSUSE: zypper install libgomp1 libquadmath0) and run this again." >&2
            return 1
        fi
        case $_copy in
            "$_wheels"/*) cp "$_copy" "$_packages/mxnet/$_library" ;;
            *) ln -s "$_copy" "$_packages/mxnet/$_library" ;;
        esac
    done
    rm -rf "$_wheels"
}

# Fills the new environment $VENV.
fill_env() {
    # MXNet by itself, because its metadata asks for numpy below 2.
    install_packages -r "$here/$1" && install_packages --no-deps mxnet==1.9.1 || {
        echo "The packages of $1 could not be installed; see above." >&2
        return 1
    }
    # Bare servers have no libGL, which opencv-python wants for its windows. The headless build
    # is the same library without them.
    if ! "$PYTHON" -c 'import cv2' >/dev/null 2>&1; then
        _version=$("$PYTHON" -c 'from importlib.metadata import version; print(version("opencv-python"))')
        "$PYTHON" -m pip uninstall --quiet --yes opencv-python &&
            install_packages "opencv-python-headless==$_version" || return 1
    fi
    link_libraries
}

setup_env() {
    _requirements=$1
    shift
    VENV=${MULTILABEL_VENV:-$here/.venv}
    for _python in "${PYTHON:-python3}" "$VENV/bin/python"; do
        if imports_all "$_python" "$@"; then
            PYTHON=$_python
            return 0
        fi
    done
    find_python || return 2
    if [ -e "$VENV" ] && ! [ -f "$VENV/pyvenv.cfg" ]; then
        echo "$VENV is not a virtual environment; move it away, or name another place: MULTILABEL_VENV=/path sh $0" >&2
        return 2
    fi
    echo "Setting up $VENV with $("$_base" --version) (about 200 MB to download, once) ..."
    rm -rf "$VENV"
    PYTHON=$VENV/bin/python
    "$_base" -m venv "$VENV" && fill_env "$_requirements" || {
        rm -rf "$VENV"
        return 2
    }
    if ! imports_all "$PYTHON" "$@"; then
        echo "The packages are installed, but do not import:" >&2
        (cd "$here" && for _module in common.mx_compat "$@"; do "$PYTHON" -c "import $_module"; done) >&2
        return 2
    fi
}
