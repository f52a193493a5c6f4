# InstantRT for GPU hosts. Two variants, chosen by the build's target:
#
#   docker build --target tensorrt-rtx --tag instantrt:rtx .         GeForce RTX, RTX PRO, and other RTX GPUs
#   docker build --target tensorrt     --tag instantrt:tensorrt .    datacenter GPUs (its wheels come from the vendor's index)
#
#   docker run --gpus all --volume "$PWD/BUNDLE:/bundle:ro" --volume "$PWD/out:/out" instantrt:rtx \
#     generate /bundle --target tensorrt-rtx --runtime-cache /cache --face /out/photo.jpg --prompt "..." --out /out/a.png
#
# The driver comes from the host (NVIDIA Container Toolkit). No compiler, torch or diffusers is inside.

ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS wheel
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN pip install --no-cache-dir build==1.6.1
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY runtime runtime
COPY engines engines
COPY export export
COPY bench bench
RUN python -m build --wheel --outdir /wheels

FROM python:${PYTHON}-slim-bookworm AS base
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
RUN useradd --create-home --uid 10001 instantrt \
    && install --directory --owner=instantrt --group=instantrt /bundle /out /cache
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
COPY constraints.txt /tmp/constraints.txt

FROM base AS tensorrt-rtx
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir --constraint /tmp/constraints.txt "instantrt[rtx] @ file://$(echo /wheels/*.whl)"
USER 10001
WORKDIR /out
VOLUME ["/cache"]
HEALTHCHECK --interval=60s --timeout=20s --start-period=30s \
    CMD ["instantrt", "doctor", "--target", "tensorrt-rtx"]
ENTRYPOINT ["instantrt"]
CMD ["doctor"]

FROM base AS tensorrt
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir --constraint /tmp/constraints.txt "instantrt[tensorrt] @ file://$(echo /wheels/*.whl)"
USER 10001
WORKDIR /out
VOLUME ["/cache"]
HEALTHCHECK --interval=60s --timeout=20s --start-period=30s \
    CMD ["instantrt", "doctor", "--target", "tensorrt"]
ENTRYPOINT ["instantrt"]
CMD ["doctor"]
