# The service, for a server that others use. With no FRESHDB_POSTGRES and no FRESHDB_REDIS it runs its own of both, in the volume.
#
#   docker build --tag freshdb .
#   docker run --publish 8777:8777 --env FRESHDB_TOKENS=ci:a-secret --env FRESHDB_INSECURE=true freshdb
#
# It needs no writable root file system: `--read-only --tmpfs /tmp` is enough.

# Another base, or a mirror's: --build-arg PYTHON=...
ARG PYTHON=python:3.12-slim

FROM ${PYTHON} AS build
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /opt/build && python3 -m venv /opt/freshdb
# What it needs, each file checked by its hash; this layer stays as long as the pins do.
COPY deploy/requirements-build.txt deploy/requirements.txt ./
RUN /opt/build/bin/pip install --require-hashes --no-deps --requirement requirements-build.txt \
    && /opt/freshdb/bin/pip install --require-hashes --no-deps --requirement requirements.txt
COPY client client
COPY service service
# A build backend of the network's choice would be a hole in that: the wheels are made with the pinned one.
RUN /opt/build/bin/python -m build --no-isolation --wheel --outdir wheels client \
    && /opt/build/bin/python -m build --no-isolation --wheel --outdir wheels service \
    && /opt/freshdb/bin/pip install --no-index --no-deps wheels/*.whl \
    && rm -r /opt/freshdb/lib/python3*/site-packages/pip /opt/freshdb/lib/python3*/site-packages/pip-* /opt/freshdb/bin/pip*

FROM ${PYTHON}
# A number, so that Kubernetes can see that it is not root.
RUN useradd --uid 10001 --user-group --create-home --home-dir /var/lib/freshdb freshdb \
    && install --directory --owner=freshdb --group=freshdb /var/lib/freshdb/data
COPY --from=build /opt/freshdb /opt/freshdb
ENV PATH=/opt/freshdb/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    FRESHDB_HOST=0.0.0.0 \
    FRESHDB_DATA=/var/lib/freshdb/data
USER 10001:10001
WORKDIR /var/lib/freshdb
VOLUME /var/lib/freshdb/data
EXPOSE 8777
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python3", "-c", "import os, ssl, urllib.request as r; \
        scheme = 'https' if os.environ.get('FRESHDB_TLS_CERTIFICATE') else 'http'; \
        port = os.environ.get('FRESHDB_PORT', '8777'); \
        r.urlopen(f'{scheme}://127.0.0.1:{port}/readyz', timeout=4, context=ssl._create_unverified_context())"]
ENTRYPOINT ["freshdb"]
CMD ["serve"]
