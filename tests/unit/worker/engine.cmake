alphecca_test(worker_block_manager_test SOURCES block_manager_test.cc DEPS alphecca::worker_engine)
alphecca_test(worker_scheduler_test SOURCES scheduler_test.cc DEPS alphecca::worker_engine)
alphecca_test(worker_engine_test SOURCES engine_test.cc DEPS alphecca::worker_engine)
alphecca_test(worker_engine_stress_test SOURCES engine_stress_test.cc DEPS alphecca::worker_engine)
