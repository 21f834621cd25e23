"""Stands for the main script in processes that a script run by `python -m fastreid_parts` has spawned."""

from fastreid_parts.scripts import run_in_spawned_process

if __name__ == "__mp_main__":
    run_in_spawned_process(globals())
