"""HEU's z-paillier (C++), hand-packed: runs in its own environment, prints CPU seconds of one operation as JSON."""

import json
import secrets
import sys
import time


def main() -> None:
    from heu import phe

    key_bits, count = int(sys.argv[1]), int(sys.argv[2])
    kit = phe.setup(phe.SchemaType.ZPaillier, key_bits)
    encryptor, evaluator, decryptor = kit.encryptor(), kit.evaluator(), kit.decryptor()
    messages = [kit.plaintext(secrets.randbits(key_bits - 16)) for _ in range(count)]
    first = [encryptor.encrypt(message) for message in messages]  # warm-up
    found = {}
    start = time.process_time()
    second = [encryptor.encrypt(message) for message in messages]
    found["encrypt"] = (time.process_time() - start) / count
    start = time.process_time()
    for one, other in zip(first, second, strict=True):
        evaluator.add(one, other)
    found["add"] = (time.process_time() - start) / count
    start = time.process_time()
    for one in first:
        decryptor.decrypt(one)
    found["decrypt"] = (time.process_time() - start) / count
    print(json.dumps(found))


if __name__ == "__main__":
    main()
