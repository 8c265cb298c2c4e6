"""`python -m lipo_verl.cpu ...`: verl's own PPO trainer on a machine without a GPU.

Takes the arguments of `python -m verl.trainer.main_ppo`, which it runs with the CPU platform and
`config/platform/cpu.yaml`. Whatever the run started is ended with it, also on failure and Ctrl-C.
"""

import sys

from lipo_verl.cpu.launch import run_main_ppo

if __name__ == "__main__":
    sys.exit(run_main_ppo(sys.argv[1:]))
