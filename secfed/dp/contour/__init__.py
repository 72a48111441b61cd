"""The engine of the accountant: epsilon and delta from one contour integral, between certified bounds.

A release compares two distributions, P with a client's data and Q without. Its *privacy loss* is L = log P/Q under P.
Losses add up under composition, and so do their cumulant generating functions: K(z) = sum of log E[exp(z L)]. For any t
> 0,

    delta(epsilon) = E[(1 - exp(epsilon - L))+]
                   = 1/pi Re integral_0^inf exp(K(z) - z epsilon) / (z (z + 1)) du,  z = t + iu.

How a query is answered, file by file:

1. `privacy_loss`, `fixed_size`: the loss of one release of sampled Gaussian noise; `nodes` turns it into probabilities
   on a few nodes (`quadrature` places them) and bounds the error. `pairs`: any pair of distributions as a list of
   losses.
2. `moments`: K at real orders t, which gives Chernoff's bound (as in Renyi accounting) and a first guess of epsilon.
3. `path`: chooses t, the step in u, and the last u. If |exp K| decays too slowly, losses near 0 are cut off.
4. `cgf`: K along the path, with its error; `fourier_sums` is used for many nodes and steps.
5. `integral`: the sum over the path, and bounds that include every error.
6. `inversion`: epsilon from delta by Newton's method on one contour.
7. `smoothed`: any pairs, with a tiny Gaussian release added so that the transform decays fast. `capped` prepares
   sampled Gaussian noise for it.
8. `sampled_gaussian`: which contours a query tries. `curve`: many compositions on one contour.

`docs/accountant.md` proves each step. Source: Zhu, Dong, Wang: Optimal Accounting of Differential Privacy via
Characteristic Function, AISTATS 2022.
"""
