"""The engine of the accountant: epsilon and delta from one contour integral, between certified bounds.

A release compares two laws, P with a client's data and Q without; its *privacy loss* is L = log P/Q under P. The losses
of a composition add up, so their cumulant generating functions do: K(z) = sum of log E[exp(z L)]. For any t > 0,

    delta(epsilon) = E[(1 - exp(epsilon - L))+]
                   = 1/pi Re integral_0^inf exp(K(z) - z epsilon) / (z (z + 1)) du,  z = t + iu.

How a query is answered, file by file:

1. `privacy_loss`, `fixed_size`: the loss of one release of sampled Gaussian noise; `nodes` turns it into probabilities
   on few nodes (`quadrature` places them), and bounds what they miss. `pairs`: any pair of laws as a list of losses.
2. `moments`: K at real orders t, which gives Chernoff's bound (that of Renyi accounting) and a guess of epsilon.
3. `path`: which t, how many steps in u and how far. Where |exp K| falls too slowly, losses near 0 are cut off.
4. `cgf`: K along the path, with its error; `fourier_sums` where there are many nodes and steps.
5. `integral`: the sum over the path, and bounds that hold all errors.
6. `inversion`: epsilon from delta by Newton's steps on one contour. `curve`: many compositions on one contour.
7. `smoothed`: any pairs, made tame by one tiny Gaussian release more.

`docs/accountant.md` proves each step. Source: Zhu, Dong, Wang: Optimal Accounting of Differential Privacy via
Characteristic Function, AISTATS 2022.
"""
