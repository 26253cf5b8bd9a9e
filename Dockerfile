# The service, for a server that others use. With no --postgres and no --redis it runs its own of both, in the volume.
#
#   docker build --tag freshdb .
#   docker run --publish 8777:8777 --env FRESHDB_TOKENS=ci:a-secret freshdb

FROM python:3.12-slim AS build
WORKDIR /src
COPY constraints.txt ./
COPY client ./client
COPY service ./service
# The pins cover development and the demo, too: as constraints they choose versions, and only what is needed is installed.
RUN sed -nE 's/^([A-Za-z0-9._-]+==[^ \\]+).*/\1/p' constraints.txt > versions.txt \
    && python -m venv /opt/freshdb \
    && /opt/freshdb/bin/pip install --no-cache-dir --constraint versions.txt ./service ./client

FROM python:3.12-slim
RUN useradd --system --create-home --home-dir /var/lib/freshdb freshdb
COPY --from=build /opt/freshdb /opt/freshdb
ENV PATH=/opt/freshdb/bin:$PATH \
    FRESHDB_HOST=0.0.0.0 \
    FRESHDB_DATA=/var/lib/freshdb/data
USER freshdb
RUN mkdir /var/lib/freshdb/data
VOLUME /var/lib/freshdb/data
EXPOSE 8777
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import os, ssl, urllib.request as r; \
        scheme = 'https' if os.environ.get('FRESHDB_TLS_CERTIFICATE') else 'http'; \
        r.urlopen(scheme + '://127.0.0.1:8777/readyz', timeout=4, context=ssl._create_unverified_context())"]
ENTRYPOINT ["freshdb"]
CMD ["serve"]
