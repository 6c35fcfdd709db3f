#!/usr/bin/env bash
# The check on a machine with an NVIDIA GPU: the CUDA tests, then the speed of encoding beside sentence-transformers in half
# precision (benchmarks/results/encode_cuda.json) and over batch_tokens (batch_tokens_cuda.json). Six minutes at most on an H100,
# installing aside.
#
#     benchmarks/gpu.sh [tests|speed]        both, without a word
#
# Makes the environment build/venv-gpu and installs requirements.txt, pytest and accelerate there, torch as its index offers it: with
# CUDA. Where an interpreter has everything already: INSTALL=no PYTHON=python3 benchmarks/gpu.sh. Packages of other versions than
# those in requirements.txt may warn, which fails a test: PYTEST_ADDOPTS="-W default". ROUNDS=5 instead of 3, LIMIT=600 seconds
# instead of 200 for the first benchmark. DEVICE=cpu N_TEXTS=20 is a trial that writes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

steps=${1:-tests speed}
case $steps in tests | speed | "tests speed") ;; *) sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2 ;; esac
PYTHON=${PYTHON:-python3}
DEVICE=${DEVICE:-cuda}
ROUNDS=${ROUNDS:-3}

if [ "${INSTALL:-yes}" != no ]; then
  [ -x build/venv-gpu/bin/python ] || "$PYTHON" -m venv build/venv-gpu
  PYTHON=build/venv-gpu/bin/python
  "$PYTHON" -m pip install --quiet --disable-pip-version-check -r requirements.txt \
    $(grep -E '^(pytest|accelerate)==' requirements-dev.txt)
fi

"$PYTHON" - "$DEVICE" <<'EOF'
import platform, sys
import accelerate, joblib, pandas, sentence_transformers, sklearn, tokenizers, torch, transformers
modules = (accelerate, joblib, pandas, sentence_transformers, sklearn, tokenizers, torch, transformers)
print("python", platform.python_version(), *(f"{module.__name__} {module.__version__}" for module in modules), sep="; ")
if sys.argv[1] == "cuda" and not torch.cuda.is_available():
    sys.exit(f"torch {torch.__version__} sees no GPU here.")
print(torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU")
EOF

failed=0
if [[ $steps == *tests* ]]; then
  timeout 120 "$PYTHON" -m pytest -q --durations=5 tests/test_cuda.py || failed=$?
fi
if [[ $steps == *speed* ]]; then
  trial=(${N_TEXTS:+--n-texts "$N_TEXTS"})
  timeout "${LIMIT:-200}" "$PYTHON" -m benchmarks.encode --device "$DEVICE" --rounds "$ROUNDS" "${trial[@]}" || failed=$?
  timeout 40 "$PYTHON" -m benchmarks.encode --device "$DEVICE" --rounds "$ROUNDS" --sweep \
    --models minilm --workloads mixed "${trial[@]}" || failed=$?
fi
exit "$failed"
