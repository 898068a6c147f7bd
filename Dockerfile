# docker build -t stepseg .
# docker run --rm --gpus all --shm-size 8g -v /path/to/datasets:/data -v stepseg-cache:/cache \
#   -v "$PWD/outputs:/runs/outputs" stepseg stepseg-train data=ade20k data.root=/data/ade20k
#
# The base is a plain Python image: PyTorch's wheels bring CUDA, cuDNN and NCCL themselves, so a
# CUDA base image would hold them twice. The host needs only its driver and NVIDIA's container
# toolkit. --shm-size is for the data loader's workers.

FROM python:3.11-slim-bookworm AS wheel
WORKDIR /build
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .
# Read out here, so that the dependencies' layer below is rebuilt when they change and not with
# every edit of the source.
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*project['dependencies'], *project['optional-dependencies']['tensorboard'], sep='\n')" \
  > /requirements.txt

FROM python:3.11-slim-bookworm
# torch.compile and Triton call a C++ compiler when they run.
# hadolint ignore=DL3008
RUN apt-get update \
  && apt-get install -y --no-install-recommends g++ \
  && rm -rf /var/lib/apt/lists/*
COPY --from=wheel /requirements.txt /opt/stepseg/
COPY constraints.txt /opt/stepseg/
RUN pip install --no-cache-dir -c /opt/stepseg/constraints.txt -r /opt/stepseg/requirements.txt
# Not editable: the wheel carries the configs, nothing outside site-packages is needed.
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
  pip install --no-cache-dir --no-deps /wheels/*.whl

# Sticky and open to all, so that `docker run --user "$(id -u):$(id -g)"` can write too.
RUN useradd --uid 1000 --create-home stepseg \
  && install -d -m 1777 /data /cache /runs /home/stepseg
ENV HOME=/home/stepseg \
  MPLCONFIGDIR=/cache/matplotlib \
  NVIDIA_DRIVER_CAPABILITIES=compute,utility \
  NVIDIA_VISIBLE_DEVICES=all \
  PYTHONUNBUFFERED=1 \
  TORCHINDUCTOR_CACHE_DIR=/cache/torchinductor \
  TRITON_CACHE_DIR=/cache/triton \
  XDG_CACHE_HOME=/cache
VOLUME ["/data", "/cache"]
# Hydra writes outputs/ and multirun/ here.
WORKDIR /runs
USER 1000
ENTRYPOINT []
CMD ["stepseg-train", "--help"]
