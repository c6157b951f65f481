"""What biology has: numbers with which figures compare heads."""

# What biology has, by its name in figures. Synapses in the domain of one astrocyte: 2e4 to 1.2e5
# in rodents, 2.7e5 to 2e6 in the human cortex (Bushong et al., J Neurosci 22:183, 2002; Oberheim et
# al., J Neurosci 29:3276, 2009; the upper ends are taken). Neurons of the human cerebral cortex:
# 19 % of 86.1e9 (Azevedo et al., J Comp Neurol 513:532, 2009). One contact for each hidden neuron
# is the least: of synapses, a head has m d_head.
BIOLOGY = {"rodent astrocyte": 1.2e5, "human astrocyte": 2e6, "human cortex": 1.6e10}
