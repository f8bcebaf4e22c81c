"""What every part of the project uses: how commands fail, atomic files, metrics, MXNet."""
