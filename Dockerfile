# The images of Sealwright: server and ci are FROM scratch, nothing is in them but
# what is copied here.
#
#   server   the service
#   server-pkcs11  the service with the C library, for keys in hardware security modules:
#            a static program cannot load their makers' libraries
#   gitlab   sealwright-ci on BusyBox: GitLab starts a shell in a job's image
#   ci       sealwright-ci alone, for a GitHub container action. It stays the last stage:
#            GitHub builds the last one where action.yml says `image: Dockerfile`
#
# The programs come from the stages `service` and `step`, which compile in Go's own
# image. A build context of that name takes a stage's place, so that what `make dist`
# built can be used and no base image is needed but BusyBox:
#
#   docker build --target server -t sealwrightd .
#   make dist && docker buildx build --build-context service=dist --build-context step=dist ...

ARG GO=docker.io/library/golang:1.26-bookworm
ARG DEBIAN=docker.io/library/debian:bookworm-slim
ARG BUSYBOX=docker.io/library/busybox:1.37-musl

FROM ${GO} AS source
WORKDIR /src
COPY . .

# Each stage names its arguments: not every builder hands them on.
FROM source AS service
ARG VERSION=devel
ARG TARGETARCH
RUN make dist PROGRAMS=sealwrightd ARCHES=${TARGETARCH} VERSION=${VERSION} DIST=/out && mv /out/* /

FROM source AS step
ARG VERSION=devel
ARG TARGETARCH
RUN make dist PROGRAMS=sealwright-ci ARCHES=${TARGETARCH} VERSION=${VERSION} DIST=/out && mv /out/* /

FROM scratch AS server
ARG TARGETARCH
COPY --from=service /ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=service /linux/${TARGETARCH}/sealwrightd /usr/bin/sealwrightd
# Holds an empty folder sealwright (0700): a new volume takes owner and mode from it.
COPY --from=service --chown=65532:65532 /state /var/lib
USER 65532:65532
# SQLite puts large temporary files into the working folder where there is no /tmp.
WORKDIR /var/lib/sealwright
VOLUME /var/lib/sealwright
EXPOSE 8443
# For Docker; Kubernetes asks /readyz itself. It needs server.admin_socket.
HEALTHCHECK --interval=30s --timeout=5s CMD ["/usr/bin/sealwrightd", "health", "--config", "/etc/sealwright/sealwright.yaml"]
ENTRYPOINT ["/usr/bin/sealwrightd"]
CMD ["serve", "--config", "/etc/sealwright/sealwright.yaml"]

FROM source AS service-pkcs11
ARG VERSION=devel
RUN CGO_ENABLED=1 go build -trimpath -mod=readonly -buildvcs=false -tags sqlite_omit_load_extension,timetzdata \
	-ldflags "-s -w -X main.stamped=${VERSION}" -o /sealwrightd ./cmd/sealwrightd && mkdir -p -m 0700 /state/sealwright

FROM ${DEBIAN} AS server-pkcs11
COPY --from=service-pkcs11 /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=service-pkcs11 /sealwrightd /usr/bin/sealwrightd
COPY --from=service-pkcs11 --chown=65532:65532 /state /var/lib
USER 65532:65532
WORKDIR /var/lib/sealwright
VOLUME /var/lib/sealwright
EXPOSE 8443
HEALTHCHECK --interval=30s --timeout=5s CMD ["/usr/bin/sealwrightd", "health", "--config", "/etc/sealwright/sealwright.yaml"]
ENTRYPOINT ["/usr/bin/sealwrightd"]
CMD ["serve", "--config", "/etc/sealwright/sealwright.yaml"]

FROM ${BUSYBOX} AS gitlab
ARG TARGETARCH
COPY --from=step /ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=step /linux/${TARGETARCH}/sealwright-ci /usr/bin/sealwright-ci

FROM scratch AS ci
ARG TARGETARCH
COPY --from=step /ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=step /linux/${TARGETARCH}/sealwright-ci /usr/bin/sealwright-ci
# No USER: the files of a GitHub job belong to its runner, and a container action
# that is not root can write neither outputs nor summary.
ENTRYPOINT ["/usr/bin/sealwright-ci"]
