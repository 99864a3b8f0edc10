# The server in a container.
#
#   docker build -t miracle .                                        PyTorch as the package index has it: on Linux with CUDA
#   docker build -t miracle --build-arg TORCH_INDEX=<address> .      another build; the selector on PyTorch's site names that for CPU
#   docker run -p 127.0.0.1:8000:8000 -e MIRACLE_API_KEY=... miracle             CPU
#   docker run --gpus all -p 127.0.0.1:8000:8000 -e MIRACLE_API_KEY=... miracle  CUDA
#   docker run -v $PWD/outs/mine:/run/mine:ro ... miracle /run/mine              a run of your own
#
# Without a command it serves release/chat, whose bases are fetched while the image is built.
ARG PYTHON=3.12
FROM python:${PYTHON}-slim

ARG TORCH_INDEX=""
ENV MIRACLE_ENV=current PYTHON=python PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
WORKDIR /miracle
COPY requirements.txt .
RUN if [ -n "$TORCH_INDEX" ]; then pip install --index-url "$TORCH_INDEX" "$(grep '^torch[<>=]' requirements.txt)"; fi \
    && pip install --requirement requirements.txt
COPY . .
RUN bash scripts/get_bases.sh && useradd --create-home miracle
USER miracle
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"
STOPSIGNAL SIGTERM
ENTRYPOINT ["bash", "serve.sh", "--host", "0.0.0.0"]
CMD ["release/chat"]
