# InstantRT for GPU hosts, and its server. Variants are chosen by the build's target:
#
#   docker build --target tensorrt-rtx --tag instantrt:rtx .         GeForce RTX, RTX PRO, and other RTX GPUs
#   docker build --target tensorrt     --tag instantrt:tensorrt .    datacenter GPUs (its wheels come from the vendor's index)
#   docker build --target serve --tag instantrt:serve .          the HTTP server, with pictures made on the CPU
#
#   docker run --publish 127.0.0.1:8000:8000 --volume "$PWD/BUNDLE:/bundle:ro" --volume data:/data instantrt:serve
#   docker run --rm --volume data:/data instantrt:serve keys create "my first client" --credits 1000
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

FROM base AS serve
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir --constraint /tmp/constraints.txt "instantrt[cpu,serve] @ file://$(echo /wheels/*.whl)" \
    && install --directory --owner=instantrt --group=instantrt /data
USER 10001
WORKDIR /data
VOLUME ["/data"]
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=600s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["instantrt"]
CMD ["serve", "/bundle", "--host", "0.0.0.0"]
