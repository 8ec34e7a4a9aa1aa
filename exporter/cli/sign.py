"""`exporter sign`: tell whoever loads an artifact who it is from."""

import argparse
import os

from exporter.cli.command import Command, given_path
from exporter.markup import printable
from exporter.signing import sign

# Where the password of a key is looked for: words of a command can be seen by other users.
_PASSWORD = "EXPORTER_KEY_PASSWORD"  # noqa: S105  # the name of a variable


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", type=given_path, help="an artifact")
    parser.add_argument(
        "--key",
        metavar="FILE",
        type=given_path,
        required=True,
        help="a private key of an elliptic curve (PEM)",
    )
    parser.add_argument(
        "--signature",
        metavar="FILE",
        type=given_path,
        help="the file to write (default: DIR.sig, beside the folder)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a signature that is there already"
    )


def _execute(arguments: argparse.Namespace) -> None:
    file = sign(
        arguments.folder,
        arguments.key,
        arguments.signature,
        password=os.environ.get(_PASSWORD),
        overwrite=arguments.overwrite,
    )
    print(printable(f"{arguments.folder} is signed in {file}"))


SIGN = Command(
    name="sign",
    usage="DIR --key FILE [--signature FILE] [--overwrite]",
    summary="sign an artifact, so that others can tell who it is from",
    description=f"""\
Sign every file of an artifact with a private key. `exporter verify DIR --key`
checks the signature with the public one: a file that was changed, added or
removed since is found. The signature is that of OpenSSF Model Signing, which
other tools read too. It lies beside the folder; the artifact stays as it is.

The password of a key that has one is taken from ${_PASSWORD}.""",
    examples="""\
  openssl ecparam -name prime256v1 -genkey -noout -out private.pem
  openssl ec -in private.pem -pubout -out public.pem
  exporter sign digits/1 --key private.pem
  exporter verify digits/1 --key public.pem""",
    add_arguments=_add_arguments,
    execute=_execute,
)
