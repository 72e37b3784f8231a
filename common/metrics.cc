#include "common/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <sstream>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace alphecca {
namespace {

class CounterImpl : public Counter {
 public:
  explicit CounterImpl(prometheus::Counter& counter) : counter_(counter) {}
  void Increment(double by) override { counter_.Increment(by); }
  double Value() const override { return counter_.Value(); }

 private:
  prometheus::Counter& counter_;
};

class GaugeImpl : public Gauge {
 public:
  explicit GaugeImpl(prometheus::Gauge& gauge) : gauge_(gauge) {}
  void Set(double value) override { gauge_.Set(value); }
  void Add(double by) override { gauge_.Increment(by); }
  double Value() const override { return gauge_.Value(); }

 private:
  prometheus::Gauge& gauge_;
};

class HistogramImpl : public Histogram {
 public:
  explicit HistogramImpl(prometheus::Histogram& histogram) : histogram_(histogram) {}
  void Observe(double value) override { histogram_.Observe(value); }

 private:
  prometheus::Histogram& histogram_;
};

}  // namespace

struct MetricsRegistry::Impl {
  prometheus::Registry registry;
  absl::Mutex mutex;
  template <typename T>
  using Wrappers = std::map<std::pair<std::string, Labels>, std::unique_ptr<T>>;
  Wrappers<Counter> counters ABSL_GUARDED_BY(mutex);
  Wrappers<Gauge> gauges ABSL_GUARDED_BY(mutex);
  Wrappers<Histogram> histograms ABSL_GUARDED_BY(mutex);
};

MetricsRegistry::MetricsRegistry() : impl_(std::make_unique<Impl>()) {}
MetricsRegistry::~MetricsRegistry() = default;

Counter& MetricsRegistry::AddCounter(const std::string& name, const std::string& help, const Labels& labels) {
  const absl::MutexLock lock(&impl_->mutex);
  auto& wrapper = impl_->counters[{name, labels}];
  if (wrapper == nullptr) {
    wrapper = std::make_unique<CounterImpl>(
        prometheus::BuildCounter().Name(name).Help(help).Register(impl_->registry).Add(labels));
  }
  return *wrapper;
}

Gauge& MetricsRegistry::AddGauge(const std::string& name, const std::string& help, const Labels& labels) {
  const absl::MutexLock lock(&impl_->mutex);
  auto& wrapper = impl_->gauges[{name, labels}];
  if (wrapper == nullptr) {
    wrapper = std::make_unique<GaugeImpl>(
        prometheus::BuildGauge().Name(name).Help(help).Register(impl_->registry).Add(labels));
  }
  return *wrapper;
}

Histogram& MetricsRegistry::AddHistogram(const std::string& name, const std::string& help,
                                         const std::vector<double>& buckets, const Labels& labels) {
  const absl::MutexLock lock(&impl_->mutex);
  auto& wrapper = impl_->histograms[{name, labels}];
  if (wrapper == nullptr) {
    wrapper = std::make_unique<HistogramImpl>(
        prometheus::BuildHistogram().Name(name).Help(help).Register(impl_->registry).Add(labels, buckets));
  }
  return *wrapper;
}

std::string MetricsRegistry::Text() const {
  std::ostringstream out;
  prometheus::TextSerializer().Serialize(out, impl_->registry.Collect());
  return out.str();
}

std::vector<double> LatencyBuckets() {
  return {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100};
}

}  // namespace alphecca
