"""`python3 -m lipo_verl.easyr1 ...`: EasyR1 with LIPO.

Takes the arguments of `python3 -m verl.trainer.main`, and `algorithm.lipo.*`.
"""

from lipo_verl.easyr1.launch import run

if __name__ == "__main__":
    run()
