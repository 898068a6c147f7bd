# docker build -t stepseg --build-arg COMMIT="$(git rev-parse HEAD)" .
# docker run --rm --gpus all --shm-size 8g --user "$(id -u):$(id -g)" -v "$PWD:/runs" \
#   -v /path/to/datasets:/data -v stepseg-cache:/cache stepseg stepseg-train data=ade20k trainer=gpu
#
# Data sets lie in /data/<name>, outputs/ and multirun/ appear in /runs; without --user they belong
# to user 1000, without -v they stay in the container. --shm-size is for the data loader's workers.
#
# The base is a plain Python image: PyTorch's wheels bring CUDA, cuDNN and NCCL themselves, so a
# CUDA base image would hold them twice. The host needs only its driver and NVIDIA's container
# toolkit.

FROM python:3.11-slim-bookworm AS requirements
# Apart from the source, so that an edit of the source does not install the dependencies again.
ARG EXTRAS="tensorboard dashboard hub video"
COPY pyproject.toml /
RUN python -c "import tomllib; p = tomllib.load(open('/pyproject.toml', 'rb'))['project']; print(*p['dependencies'], *(r for extra in '$EXTRAS'.split() for r in p['optional-dependencies'][extra]), sep='\n')" \
  > /requirements.txt

FROM python:3.11-slim-bookworm AS wheel
WORKDIR /build
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="stepseg" \
  org.opencontainers.image.description="Fast semantic segmentation with plain Vision Transformers" \
  org.opencontainers.image.licenses="Apache-2.0"
# torch.compile and Triton call a C++ compiler when they run.
# hadolint ignore=DL3008
RUN apt-get update \
  && apt-get install -y --no-install-recommends g++ \
  && rm -rf /var/lib/apt/lists/*
COPY constraints.txt /opt/stepseg/
COPY --from=requirements /requirements.txt /opt/stepseg/
RUN pip install --no-cache-dir -c /opt/stepseg/constraints.txt -r /opt/stepseg/requirements.txt
# Not editable: the wheel carries the configs, nothing outside site-packages is needed.
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
  pip install --no-cache-dir --no-deps /wheels/*.whl

# Sticky and open to all, so that `docker run --user` can write too.
RUN useradd --uid 1000 --create-home stepseg \
  && install -d -m 1777 /data /cache /runs /home/stepseg
# Names of the user are asked for by libraries; a user given by --user has none of its own.
ENV HOME=/home/stepseg \
  LOGNAME=stepseg \
  MPLCONFIGDIR=/cache/matplotlib \
  NVIDIA_DRIVER_CAPABILITIES=compute,utility \
  NVIDIA_VISIBLE_DEVICES=all \
  PYTHONUNBUFFERED=1 \
  STEPSEG_CACHE=/cache/stepseg \
  STEPSEG_DATA=/data \
  TORCHINDUCTOR_CACHE_DIR=/cache/torchinductor \
  TRITON_CACHE_DIR=/cache/triton \
  XDG_CACHE_HOME=/cache
VOLUME ["/data", "/cache"]
# Last, since it changes with every build: goes into every result.json.
ARG COMMIT=""
ENV STEPSEG_COMMIT=$COMMIT
WORKDIR /runs
USER 1000
CMD ["stepseg-train", "--help"]
