# Communicators.
alphecca_test(comm_shm_test SOURCES comm_shm_test.cc DEPS alphecca::worker_comm)
if(ALPHECCA_GLOO)
  alphecca_test(comm_gloo_test SOURCES comm_gloo_test.cc DEPS alphecca::worker_comm_gloo)
endif()
if(ALPHECCA_RPC)
  alphecca_test(rpc_test SOURCES rpc_test.cc DEPS alphecca::worker_rpc)
  alphecca_test(worker_engine_service_test SOURCES engine_service_test.cc DEPS alphecca::worker_rpc)
endif()
