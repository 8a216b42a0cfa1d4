# An S3 store to try Firn on: the last open version of MinIO, from its source.
FROM golang:1.24-bookworm AS build
RUN CGO_ENABLED=0 go install github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c

FROM debian:bookworm-slim
COPY --from=build /go/bin/minio /usr/local/bin/minio
EXPOSE 9000/tcp
ENTRYPOINT ["minio"]
