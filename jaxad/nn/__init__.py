"""Modules and numerical functions that methods and backbones share.

Modules keep float32 parameters and compute in the floating type of the tensor they are given, which is also the type of
their output; statistics, normalisation and softmax are float32 inside. A method that casts the input of its network to
bfloat16 so runs the whole network in it; it casts the output back to float32.
"""
