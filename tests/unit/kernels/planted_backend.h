// The reference with one error planted in it, to show that the op cases notice.
#pragma once

#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "kernels/ref/ref_internal.h"

namespace alphecca::kernels {

enum class Planted {
  kMatMulSkipsLastColumn,
  kMatMulSkipsLastRow,
  kGatedSwapsHalves,
  kGeluIsExact,  // erf in place of tanh
  kNormWithoutEps,
  kNormOnePlusWeight,
  kResidualScalesBranchOnly,
  kAddNormsSwapsWeights,
  kEmbedScalesSoftRows,
  kPerLayerWithoutHalfRoot,
  kRopePairsNeighbours,
  kQkvNormsValueWithKeyWeight,
  kQkvOneBlockOff,
  kAttendDropsFirstKey,
  kAttendSeesOneMore,
  kAttendWrongGroup,
  kRouteHighestOfTies,
  kRouteWithoutScale,
  kExpertsIgnoresLive,
  kExpertsDropsLastOfRow,
  kExpertsForgetsLoad,
  kGatherOffByOne,
  kSoftcapOff,
  kCandidatesHighestOfTies,
  kChooseForgets,
  kChooseForgetsCounts,  // what slots sample is not counted in their history
  kRulesIgnored,
  kMaskIgnored,
  kReopensWithOldRules,
  kKvCopyBackwards,
  kWritesPastRow,
};

class PlantedBackend : public RefBackend {
 public:
  explicit PlantedBackend(Planted error) : error_(error) {}

  void MatMul(Stream& s, const MatMulArgs& a) override;
  void GatedMatMul(Stream& s, const GatedMatMulArgs& a) override;
  void GeluMul(Stream& s, const GeluMulArgs& a) override;
  void RmsNorm(Stream& s, const RmsNormArgs& a) override;
  void ResidualNorm(Stream& s, const ResidualNormArgs& a) override;
  void AddNorms(Stream& s, const AddNormsArgs& a) override;
  void Embed(Stream& s, const Step& step, const EmbedArgs& a) override;
  void PerLayerInput(Stream& s, const Step& step, const PerLayerInputArgs& a) override;
  void Qkv(Stream& s, const Step& step, const QkvArgs& a) override;
  void Attend(Stream& s, const Step& step, const AttendArgs& a) override;
  void Route(Stream& s, const RouteArgs& a) override;
  void Experts(Stream& s, const ExpertsArgs& a) override;
  std::unique_ptr<Step> Upload(Stream& s, const StepInput& input, KvPool* full, KvPool* sliding) override;
  void GatherRows(Stream& s, const Step& step, const GatherRowsArgs& a) override;
  void Softcap(Stream& s, const SoftcapArgs& a) override;
  void Candidates(Stream& s, const Step& step, const CandidatesArgs& a) override;
  void Choose(Stream& s, const Step& step, const ChooseArgs& a) override;
  void KvCopy(Stream& s, KvPool& pool, int32_t from, int32_t to) override;

 private:
  Planted error_;
  std::map<int32_t, bool> has_rules_;  // by slot, as it was first opened
};

}  // namespace alphecca::kernels
