"""Entry point of the command. An interrupt while it loads prints one line, as it does later."""

import sys


def main() -> None:
    """Load the command and run it."""
    try:
        from mnndask.cli.main import main as run
    except KeyboardInterrupt:
        sys.stderr.write("mnndask: interrupted; nothing was written\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
