"""Messages that keep the model: sequential rounding with error feedback, steps by what matters, and range
coding of the numbers.

=============  ==============================================================================
module         holds
=============  ==============================================================================
`rounding`     rounding of one matrix
`moments`      what matters: second moments of inputs and of gradients, on training tokens
`prepare`      a whole model, at the size that is asked for
`matrix`       numbers and steps of one matrix, and their code
`adaptive`     range coding with models that learn
`codec`        the message's body
=============  ==============================================================================
"""
