"""Primes that anybody may know, by the bits of the key that they give: for tests that are not about the search."""

from functools import cache

from secfed.paillier import generation, noise

KNOWN: dict[int, tuple[int, int]] = {
    2048: (
        int(
            "e93f3d31348be8e56d1d55f9769f424005e4c5a08301f1802fdb955369728f65048135be5a73d79cb7c3dbcb1f89e0d3"
            "2b3fd4dc0d09a2b4c90dd2e34d70b20198d6b5fca7de51110f442decbf022e72987bdf60fffa31be31719e59e174c100"
            "d153ac1b0d1b0609c59f18c7eec0e0869411bc2d1a32093f47c59f6b03a75863",
            16,
        ),
        int(
            "d766d506e96ad766f051c44f6c6edf6022cd7cd935fa5ec96311e1bc0d0408551e98a664f6a2608dfe56badc3de91c2d"
            "aa9145cc09dcda7eab5d24bb757bcb90ca4940dde73a83390365d1c07226f6df5db1db7c9cf04c62c3976d937adf1b06"
            "bfc0d4c3f26174d44123d6a79d8fbec8f58c5b76286033042fec59caeaa788c7",
            16,
        ),
    ),
    3072: (
        int(
            "d4d7226b32fe70ec0e20058c205313d48d3b763084494a81ebeb0d55afad256094478b9c38571ae2a4c2dcd659717e00"
            "97222f93bd06c5ce23d32007be9b28c049cb8b3f2fc1623d477e93af7f2b9dd3a20316aea8d2923f33bb7037cf2139ea"
            "c0cc1410aa05d53d19ea73dd1be3dc731b2d5ae2671f5944432def1059aaf30c3ca67d06f3d78db34b28262d21107cd7"
            "eae9dbc0ad33e6b8ada5e236a34fa07a8b9506e49b1cca5fa30e12435652fa8e4adf7b585cd03de5a0d534024e84f477",
            16,
        ),
        int(
            "cc0a14a6fc8055436f5383ff14f48fcc1fe16aeaf56de7f8b01c8e19435bb5181f3a0ae843a492875d651eff74c50c56"
            "1dfcfcd3f00534f70fc2195904cb72b667c972a389733a27458303725ab4531856004a26730058b57909ca28c0146df7"
            "01a05b3c0b21b2a663ab0a5d1dc487ae68fa03849533e04b490c4ae07d0875aa909e397d20605238e529cc2266a71c50"
            "4ac49dba3474c0d9a627201e21eb8d2185bac2cab9b2d73e912b09662af2b88e7f78f2d5cded1ebb16f78f7dc161cc73",
            16,
        ),
    ),
}
# For threshold keys: (p - 1) / 2 is prime too.
KNOWN_SAFE: dict[int, tuple[int, int]] = {
    2048: (
        int(
            "d3116115bd9695b2d410b87d74989edf6621806902495fb988eeb22164f72a20336bcfe8d5d21f4502e812ddc9d7c647"
            "c72c2817635887e554278ac731b3e1ab8000b66e5c035728c6a662ad1a7f806284d143aa4ebee402a2fafa8e694c90bd"
            "759a44d8a6104a2700dfe833bba7c267ca0e95590ed438ba319b4b786372e3c7",
            16,
        ),
        int(
            "cb65d7fbb35e81fc5680fc676ef61c854955166ecd0e9c4cd406bfe572672458e7c14eabf4faab7250be3e0d8d24d394"
            "d5785de34452d81a3c60fee86912628df8294534f1396b23520b0b83f00fce73f1ec648f486dde764b2798c57c5617ad"
            "ad55bb83000245f664c80bdd39a1ad9d1ad352f365e8584bc247a38b954935f3",
            16,
        ),
    ),
}

noise_base = cache(generation.noise_base)
noise_table = cache(noise.noise_table.__wrapped__)  # it keeps two alone
