"""`python -m aegis_workers.cli`, for machines where the command is not on the PATH."""

from aegis_workers.cli import main

main(prog_name="aegis-workers")
