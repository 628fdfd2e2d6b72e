"""The benchmark behind `jaxsoftmax bench`: time, memory and accuracy of the losses beside other libraries."""
