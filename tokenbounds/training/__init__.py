"""Training: gradient descent on a token store, from a configuration to a folder with a model.

In: a model's section of the configuration, and the token stores of the training and validation splits. Out:
``model.safetensors``, ``config.json``, ``curve.csv`` and ``curve.png``, the same bytes whether or not the
training was interrupted. `loop.train` trains in this process, `loop.run` in as many as the configuration
says; `batches.sample` draws one batch. Nothing is imported here: quantization draws batches, and an edit of
the loop must not make its messages stale.
"""
