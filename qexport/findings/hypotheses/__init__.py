"""The mistakes that a design may have made: a file for each stage, each mistake as a change of one stage of the layer.

Where a mistake can be made in several ways (what stands before the first word, which loop is the inner one), each way
is a change of its own of the same mistake. Those that come first are the likelier ones. A new one is a `Mistake` and
what yields its changes, both in the file of its stage; `registry` lists the stages.
"""
