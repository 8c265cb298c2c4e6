"""LIPO: Length-Informed Relative Policy Optimization, an advantage estimator for verl and EasyR1.

Installing the package is enough: `lipo_verl.hook` brings it into every process that imports
one of them, and `algorithm.adv_estimator=lipo` selects the estimator.
"""
