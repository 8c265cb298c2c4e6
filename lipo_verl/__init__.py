"""LIPO: Length-Informed Relative Policy Optimization, as an advantage estimator for verl.

Installing the package is enough: verl loads :mod:`lipo_verl.verl_plugin` through its own plug-in
entry point, and ``algorithm.adv_estimator=lipo`` selects the estimator.
"""
