// The op cases are only worth what they notice: each planted error must fail at least one case of its op.
#include <gtest/gtest.h>

#include <string>

#include "tests/unit/kernels/op_cases.h"
#include "tests/unit/kernels/planted_backend.h"

namespace alphecca::kernels {
namespace {

struct Plant {
  Planted error;
  const char* op;
};

constexpr Plant kPlants[] = {
    {Planted::kMatMulSkipsLastColumn, "MatMul"},
    {Planted::kMatMulSkipsLastRow, "MatMul"},
    {Planted::kWritesPastRow, "MatMul"},
    {Planted::kGatedSwapsHalves, "GatedMatMul"},
    {Planted::kGeluIsExact, "GeluMul"},
    {Planted::kNormWithoutEps, "RmsNorm"},
    {Planted::kNormOnePlusWeight, "RmsNorm"},
    {Planted::kResidualScalesBranchOnly, "ResidualNorm"},
    {Planted::kAddNormsSwapsWeights, "AddNorms"},
    {Planted::kEmbedScalesSoftRows, "Embed"},
    {Planted::kPerLayerWithoutHalfRoot, "PerLayerInput"},
    {Planted::kRopePairsNeighbours, "Qkv"},
    {Planted::kQkvNormsValueWithKeyWeight, "Qkv"},
    {Planted::kQkvOneBlockOff, "Qkv"},
    {Planted::kAttendDropsFirstKey, "Attend"},
    {Planted::kAttendSeesOneMore, "Attend"},
    {Planted::kAttendWrongGroup, "Attend"},
    {Planted::kRouteHighestOfTies, "Route"},
    {Planted::kRouteWithoutScale, "Route"},
    {Planted::kExpertsIgnoresLive, "Experts"},
    {Planted::kExpertsDropsLastOfRow, "Experts"},
    {Planted::kExpertsForgetsLoad, "Experts"},
    {Planted::kGatherOffByOne, "GatherRows"},
    {Planted::kSoftcapOff, "Softcap"},
    {Planted::kCandidatesHighestOfTies, "Candidates"},
    {Planted::kChooseForgets, "Candidates"},
    {Planted::kChooseForgetsCounts, "Candidates"},
    {Planted::kRulesIgnored, "Candidates"},
    {Planted::kMaskIgnored, "Candidates"},
    {Planted::kReopensWithOldRules, "Candidates"},
    {Planted::kKvCopyBackwards, "KvCopy"},
};

TEST(SelfTest, EveryPlantedErrorIsNoticed) {
  for (const Plant& plant : kPlants) {
    int failed = 0;
    for (const OpCase& op_case : OpCasesOf(plant.op)) {
      PlantedBackend backend(plant.error);
      failed += RunOpCase(op_case, backend).empty() ? 0 : 1;
    }
    EXPECT_GT(failed, 0) << plant.op << ", error " << static_cast<int>(plant.error);
  }
}

TEST(SelfTest, EveryOpHasAPlantedError) {
  for (const OpCase& op_case : AllOpCases()) {
    bool found = false;
    for (const Plant& plant : kPlants) {
      found = found || op_case.op == plant.op;
    }
    EXPECT_TRUE(found) << op_case.op;
  }
}

// A dropped last column must show in every product, not only in the short ones where one column weighs much.
TEST(SelfTest, ADroppedColumnShowsAtEveryShape) {
  for (const OpCase& op_case : OpCasesOf("MatMul")) {
    // Not where there is nothing to drop, nor where the only weight of the column may be a quantised zero.
    if (op_case.name.find("no_") != std::string::npos || op_case.name.ends_with("x1")) {
      continue;
    }
    PlantedBackend backend(Planted::kMatMulSkipsLastColumn);
    EXPECT_NE(RunOpCase(op_case, backend), "") << op_case.name;
  }
}

}  // namespace
}  // namespace alphecca::kernels
