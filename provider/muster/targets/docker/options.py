"""Declares the options of a Docker target."""

from __future__ import annotations

from muster.targets.options import Kind, Option

ENGINE, IMAGES, NODES = "Engine", "Images", "Nodes"

OPTIONS = (
    Option(
        name="url",
        label="Engine URL",
        help="Address of the engine. Empty: DOCKER_HOST of the worker, else the socket of its machine.",
        group=ENGINE,
        example="tcp://gpu-1:2376",
        standard="host",
    ),
    Option(
        name="tls_ca_cert",
        label="CA certificate",
        help="File on the workers with the certificate that signed the engine's. Empty: no TLS.",
        kind=Kind.PATH,
        group=ENGINE,
        example="/etc/muster/ca.pem",
    ),
    Option(
        name="tls_client_cert",
        label="Client certificate",
        help="File on the workers with the certificate to present to the engine. Empty: none.",
        kind=Kind.PATH,
        group=ENGINE,
        example="/etc/muster/cert.pem",
    ),
    Option(
        name="tls_client_key",
        label="Client key",
        help="File on the workers with the client certificate's key. Empty: none.",
        kind=Kind.PATH,
        group=ENGINE,
        example="/etc/muster/key.pem",
    ),
    Option(
        name="tls_verify",
        label="Verify the engine",
        help="Whether the engine's certificate is verified. Empty: true.",
        kind=Kind.SWITCH,
        group=ENGINE,
    ),
    Option(
        name="base_image",
        label="Base image",
        help="Image on which environments are built. Empty: python:<version>-slim.",
        group=IMAGES,
        example="python:3.11-slim",
    ),
    Option(
        name="gpu_base_image",
        label="GPU base image",
        help="Base image of jobs with use_gpu. Empty: the base image.",
        group=IMAGES,
        example="nvidia/cuda:12.6.3-runtime-ubuntu24.04",
    ),
    Option(
        name="image_repository",
        label="Image repository",
        help="Repository to which built images are pushed. Empty: images stay on the engine.",
        group=IMAGES,
        example="registry.example.org/team/muster",
    ),
    Option(
        name="docker_conn_id",
        label="Registry connection",
        help="Id of a Docker connection with the login for pulling and pushing images. Empty: no login.",
        kind=Kind.CONNECTION,
        group=IMAGES,
        example="my_registry",
    ),
    Option(
        name="registry_login",
        label="Registry login",
        help="Login for pulling and pushing images, without Airflow. Empty: no login.",
        kind=Kind.REGISTRY,
        group=IMAGES,
        form=False,
    ),
    Option(
        name="networks",
        label="Networks",
        help="Networks of the engine that nodes join beside the job's own, separated by commas. Empty: none.",
        kind=Kind.LIST,
        group=NODES,
        example="storage,metrics",
    ),
    Option(
        name="gpus",
        label="GPUs",
        help="Ids of the devices that jobs may use, separated by commas. Empty: as many as a job asks for, from 0.",
        kind=Kind.LIST,
        group=NODES,
        example="0,1,2",
    ),
)
