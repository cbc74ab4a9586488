# The demo in a container: CPU by default, an NVIDIA GPU with the compose profile "nvidia".
FROM python:3.12-slim

# Empty: the registry's torch, which carries CUDA. For a smaller CPU image give the index that pytorch.org names.
ARG TORCH_INDEX_URL=""

RUN useradd --uid 1000 --create-home livephase && mkdir /data && chown livephase /data
WORKDIR /opt/livephase
RUN if [ -n "$TORCH_INDEX_URL" ]; then pip install --no-cache-dir --index-url "$TORCH_INDEX_URL" torch==2.13.0; fi
COPY pyproject.toml README.md LICENSE ./
COPY service service
COPY devices devices
COPY client client
RUN pip install --no-cache-dir .

USER livephase
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/api/v1/health', timeout=4)"]
STOPSIGNAL SIGTERM
CMD ["livephase", "demo", "--no-browser", "--port", "8000", "--data", "/data"]
