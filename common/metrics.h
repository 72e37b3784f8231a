// Metrics of one process, in Prometheus' model. Names start with "alphecca_", base units, no request data in labels.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace alphecca {

class Counter {
 public:
  virtual ~Counter() = default;
  virtual void Increment(double by = 1) = 0;
  virtual double Value() const = 0;
};

class Gauge {
 public:
  virtual ~Gauge() = default;
  virtual void Set(double value) = 0;
  virtual void Add(double by) = 0;
  virtual double Value() const = 0;
};

class Histogram {
 public:
  virtual ~Histogram() = default;
  virtual void Observe(double value) = 0;
};

using Labels = std::map<std::string, std::string>;

// Thread-safe. What Add* returns lives as long as the registry; the same name and labels give the same object. Names
// must match [a-zA-Z_:][a-zA-Z0-9_:]* and keep one type and help each.
class MetricsRegistry {
 public:
  MetricsRegistry();
  ~MetricsRegistry();
  MetricsRegistry(const MetricsRegistry&) = delete;
  MetricsRegistry& operator=(const MetricsRegistry&) = delete;

  Counter& AddCounter(const std::string& name, const std::string& help, const Labels& labels = {});
  Gauge& AddGauge(const std::string& name, const std::string& help, const Labels& labels = {});
  Histogram& AddHistogram(const std::string& name, const std::string& help, const std::vector<double>& buckets,
                          const Labels& labels = {});

  // Text exposition format 0.0.4.
  std::string Text() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Buckets for latencies from 0.1 ms to about 100 s, three a decade.
std::vector<double> LatencyBuckets();

}  // namespace alphecca
