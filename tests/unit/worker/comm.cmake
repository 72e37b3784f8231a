# Communicators.
alphecca_test(comm_shm_test SOURCES comm_shm_test.cc DEPS alphecca::worker_comm)
