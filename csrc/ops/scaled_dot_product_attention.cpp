#include "ops/scaled_dot_product_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <tuple>
#include <utility>
#include <vector>

#include "core/integers.h"
#include "core/parts.h"
#include "core/trace.h"
#include "cuda/scaled_dot_product_attention.h"
#include "kernels/scaled_dot_product_attention.h"
#include "ops/convert.h"

namespace fastdl::ops {
namespace {

Shape leading(const Tensor& x) { return {x.shape.begin(), x.shape.end() - 2}; }
int64_t rows_of(const Tensor& x) { return x.shape[x.ndim() - 2]; }
int64_t cols_of(const Tensor& x) { return x.shape[x.ndim() - 1]; }

Shape append(Shape shape, std::initializer_list<int64_t> dims) {
  for (const int64_t dim : dims) shape.push_back(dim);
  return shape;
}

// An array as a stack of matrices that broadcast over the leading dimensions of the batch.
struct Stack {
  Shape dims;           // leading dimensions of the array, but with its heads repeated
  int64_t count = 1;    // of its matrices
  int64_t repeats = 1;  // consecutive heads of the batch that take one head of the array

  Stack() = default;
  explicit Stack(const Shape& dims) : dims(dims), count(dims.numel()) {}
  // How many matrices there are along dimension d of the batch.
  int64_t own(const Shape& batch, int d) const {
    const int at = d - (batch.ndim() - dims.ndim());
    return at < 0 ? 1 : at == dims.ndim() - 1 ? dims[at] / repeats : dims[at];
  }
  // The matrix that product `at` of the batch takes.
  int64_t matrix(const Shape& batch, int64_t at) const {
    int64_t index = 0, stride = 1;
    for (int back = 1; back <= dims.ndim(); ++back) {
      const int64_t size = dims[dims.ndim() - back], full = batch[batch.ndim() - back];
      const int64_t divisor = back == 1 ? repeats : 1;
      if (size != 1) index += at % full / divisor * stride;
      stride *= size / divisor;
      at /= full;
    }
    return index;
  }
};

Shape broadcast(const char* op, const char* names, const Shape& a, const Shape& b) {
  const int n = std::max(a.ndim(), b.ndim());
  Shape out;
  for (int i = 0; i < n; ++i) {
    const int64_t x = i < n - a.ndim() ? 1 : a[i - (n - a.ndim())];
    const int64_t y = i < n - b.ndim() ? 1 : b[i - (n - b.ndim())];
    check(x == y || x == 1 || y == 1, op, "the leading dimensions of ", names,
          " do not broadcast: ", a, " and ", b);
    out.push_back(x == 1 ? y : x);
  }
  return out;
}

// The checked call: what the kernels need, but for the pointers of their dtype.
struct Plan {
  const char* op;
  const AttentionInputs& in;
  Stack query, key, value, scores, mask;
  Shape batch;
  int64_t L, S, E, Ev;
  int64_t mask_row_stride = 0, mask_col_stride = 0;
  double scale;
  bool is_causal;
  std::optional<Dropout> dropout;
  std::vector<AttentionBatch> batches;

  Plan(const char* op, const AttentionInputs& in, const AttentionOptions& options)
      : op(op), in(in), is_causal(options.is_causal) {
    for (const auto& [name, x] : {std::pair("query", &in.query), std::pair("key", &in.key),
                                  std::pair("value", &in.value)}) {
      check(x->ndim() >= 2, op, name, " must have at least 2 dimensions, got shape ", x->shape);
    }
    check_same_dtype(op, "key", in.key, "query", in.query);
    check_same_dtype(op, "value", in.value, "query", in.query);
    L = rows_of(in.query), S = rows_of(in.key), E = cols_of(in.query), Ev = cols_of(in.value);
    check(cols_of(in.key) == E, op, "key has ", cols_of(in.key), " features, query has ", E);
    check(rows_of(in.value) == S, op, "value has ", rows_of(in.value), " rows, key has ", S);
    query = Stack(leading(in.query)), key = Stack(leading(in.key)),
    value = Stack(leading(in.value));
    if (options.enable_gqa) {
      repeat_heads("key", key);
      repeat_heads("value", value);
    }
    scores = Stack(broadcast(op, "query and key", query.dims, key.dims));
    batch = broadcast(op, "the scores and value", scores.dims, value.dims);
    if (in.attn_mask) add_mask(*in.attn_mask);
    scale = options.scale ? *options.scale : 1 / std::sqrt(static_cast<double>(E));
    const Dropout checked = make_dropout(op, options.dropout_p, {});
    if (options.dropout_p > 0) dropout = checked;
  }

  Shape y_shape() const { return append(batch, {L, Ev}); }
  Shape logsumexp_shape() const { return append(scores.dims, {L}); }
  bool has_additive_mask() const { return in.attn_mask && in.attn_mask->dtype != DType::boolean; }

  void repeat_heads(const char* name, Stack& stack) {
    check(query.dims.ndim() >= 1 && stack.dims.ndim() >= 1, op,
          "enable_gqa needs a dimension of heads in query, key and value");
    const int64_t heads = query.dims[query.dims.ndim() - 1];
    int64_t& own = stack.dims[stack.dims.ndim() - 1];
    check(own > 0 ? heads % own == 0 : heads == 0, op, "the ", own, " heads of ", name,
          " must divide the ", heads, " heads of query");
    stack.repeats = heads > 0 ? heads / own : 1;
    own = heads;
  }

  void add_mask(const Tensor& attn_mask) {
    check(!is_causal, op, "attn_mask must be None when is_causal is True");
    check_type(attn_mask.dtype == DType::boolean || goes_with(attn_mask, in.query), op,
               "attn_mask must be bool or ", in.query.stored, " like query, got ",
               attn_mask.stored);
    const Shape full = append(scores.dims, {L, S});
    const Shape& shape = attn_mask.shape;
    bool fits = 2 <= shape.ndim() && shape.ndim() <= full.ndim();
    for (int back = 1; fits && back <= shape.ndim(); ++back) {
      const int64_t size = shape[shape.ndim() - back];
      fits = size == 1 || size == full[full.ndim() - back];
    }
    check(fits, op, "attn_mask of shape ", shape, " does not broadcast to the scores' ", full);
    mask = Stack(leading(attn_mask));
    mask_row_stride = rows_of(attn_mask) == 1 ? 0 : cols_of(attn_mask);
    mask_col_stride = cols_of(attn_mask) == 1 ? 0 : 1;
  }

  // After the outputs are there: the tables are no longer than they are.
  void fill_batches() {
    const int64_t mask_size = in.attn_mask ? rows_of(*in.attn_mask) * cols_of(*in.attn_mask) : 0;
    std::vector<bool> seen(scores.count);
    batches.reserve(batch.numel());
    for (int64_t b = 0; b < batch.numel(); ++b) {
      const int64_t s = scores.matrix(batch, b);
      batches.push_back({query.matrix(batch, b), key.matrix(batch, b), value.matrix(batch, b), s,
                         mask.matrix(batch, b) * mask_size, !seen[s]});
      seen[s] = true;
    }
  }

  template <typename T>
  Attention<T> attention(const AttentionInputs& in) const {
    const bool additive = has_additive_mask();
    return {in.query.ptr<T>(),
            in.key.ptr<T>(),
            in.value.ptr<T>(),
            additive ? in.attn_mask->ptr<T>() : nullptr,
            in.attn_mask && !additive ? in.attn_mask->ptr<bool>() : nullptr,
            mask_row_stride,
            mask_col_stride,
            batches.data(),
            static_cast<int64_t>(batches.size()),
            L,
            S,
            E,
            Ev,
            static_cast<SumOf<T>>(scale),
            is_causal,
            dropout ? &*dropout : nullptr};
  }

  // What a GPU's kernels need of the batch: dimensions that all operands step through alike are
  // one to them.
  cuda::AttentionBatches device_batches() const {
    cuda::AttentionBatches b;
    const std::array stacks = {&query, &key, &value, &scores, &mask};
    const std::array operands = {&b.query, &b.key, &b.value, &b.scores, &b.mask};
    b.count = batch.numel();
    for (size_t k = 0; k < stacks.size(); ++k) {
      for (int d = 0; d < batch.ndim(); ++d) operands[k]->count *= stacks[k]->own(batch, d);
    }
    if (b.count == 0) return b;
    for (int d = 0; d < batch.ndim(); ++d) {
      if (batch[d] == 1) continue;
      bool joins = b.ndim > 0;
      for (size_t k = 0; joins && k < stacks.size(); ++k) {
        joins =
            operands[k]->own[b.ndim - 1] == b.sizes[b.ndim - 1] || stacks[k]->own(batch, d) == 1;
      }
      if (!joins) {
        check(b.ndim < cuda::kAttentionDims, op, "on a GPU at most ", cuda::kAttentionDims,
              " leading dimensions may broadcast in turns");
        b.sizes[b.ndim] = 1;
        for (cuda::AttentionOperand* x : operands) x->own[b.ndim] = 1;
        ++b.ndim;
      }
      b.sizes[b.ndim - 1] *= batch[d];
      for (size_t k = 0; k < stacks.size(); ++k) {
        operands[k]->own[b.ndim - 1] *= stacks[k]->own(batch, d);
      }
    }
    return b;
  }

  cuda::Attention device_attention() const {
    return {in.query,
            in.key,
            in.value,
            in.attn_mask,
            mask_row_stride,
            mask_col_stride,
            device_batches(),
            L,
            S,
            E,
            Ev,
            scale,
            is_causal,
            dropout ? &*dropout : nullptr};
  }

  void trace_products(const char* kernel, int products, double arrays) const {
    const double seen = is_causal && S > 0 ? 1 - 0.5 * static_cast<double>(std::min(L, S)) / S : 1;
    const double pairs = static_cast<double>(batch.numel()) * L * S * seen;
    trace(kernel, pairs * products * (E + Ev), arrays * dtype_size(in.query.dtype));
  }
};

// The batches of each of `count` matrices, in order.
struct Groups {
  std::vector<int64_t> starts, members;

  Groups(const Plan& plan, const Stack& stack) : starts(stack.count + 1) {
    const int64_t n = static_cast<int64_t>(plan.batches.size());
    std::vector<int64_t> matrices(n);
    for (int64_t b = 0; b < n; ++b) {
      matrices[b] = stack.matrix(plan.batch, b);
      ++starts[matrices[b] + 1];
    }
    for (size_t i = 1; i < starts.size(); ++i) starts[i] += starts[i - 1];
    std::vector<int64_t> next(starts.begin(), starts.end() - 1);
    members.resize(n);
    for (int64_t b = 0; b < n; ++b) members[next[matrices[b]]++] = b;
  }
  AttentionGroups view() const {
    return {static_cast<int64_t>(starts.size()) - 1, starts.data(), members.data()};
  }
  bool operator==(const Groups& other) const {
    return starts == other.starts && members == other.members;
  }
};

// Whether the decode kernels take the call: query by query is then faster than tiles of 16 queries,
// and each group goes through its key and value once.
bool decodes(const Plan& plan, const Groups& keys, const Groups& values) {
  constexpr int64_t kQueries = 4;
  if (plan.L > kQueries || plan.dropout || plan.batches.empty()) return false;
  if (plan.query.count != plan.batch.numel() || !(keys == values)) return false;
  const AttentionGroups groups = keys.view();
  for (int64_t i = 0; i < groups.count; ++i) {
    if ((groups.starts[i + 1] - groups.starts[i]) * plan.L > kDecodeRows) return false;
  }
  return true;
}

// Into how many parts the keys of a head are cut, so that each part is one task that makes all
// three gradients in five products; 0 if blocks of queries and of keys take turns, in seven. 12
// tasks keep 16 threads as busy with five as all of them would be with seven.
int64_t parts_of_heads(const Plan& plan, const Groups& keys, const Groups& values) {
  constexpr int64_t kTasks = 12, kLanes = 16, kBytes = 48 << 20;  // of all but the first dquery
  if (!(keys == values) || plan.E % kLanes != 0 || plan.query.count != plan.batch.numel()) return 0;
  const int64_t size = plan.in.query.numel() * dtype_size(plan.in.query.dtype);
  const int64_t heads = std::max<int64_t>(keys.view().count, 1);
  const int64_t blocks = ceil_div(plan.S, kAttentionBlock);
  const int64_t parts =
      std::min({ceil_div(kTasks, heads), blocks, 1 + kBytes / std::max<int64_t>(size, 1)});
  return heads * parts >= kTasks || parts == blocks ? parts : 0;
}

// Whether tiles take the call: in cycles, a pair of a query and a key costs the products and its
// exponential, and tiles see blocks of 32 x 32 of them; all operands are laid out for tiles first,
// key and value for each 512 queries.
template <typename E>
bool worth_tiles(const Plan& plan) {
  constexpr int64_t kFeatures = 256, kQueries = 512;
  if (plan.E > kFeatures || plan.Ev > kFeatures) return false;
  const auto whole = [](int64_t n) { return static_cast<double>(round_up(n, int64_t{32})); };
  const double queries = static_cast<double>(plan.L), keys = static_cast<double>(plan.S);
  const double features = whole(plan.E) + whole(plan.Ev);
  const double seen = plan.is_causal ? 1 - 0.5 * std::min(queries / keys, 1.0) : 1;
  const double padded = plan.is_causal ? whole(plan.S) * 16 : 0;
  const double pairs = seen * whole(plan.L) * whole(plan.S) + padded;
  const double vectors = seen * queries * keys * (static_cast<double>(plan.E + plan.Ev) / 26 + 1);
  const double blocks = static_cast<double>(ceil_div(plan.L, kQueries));
  return pairs * (features * kTileProducts<E> / 350 + 1.3) +
             (keys * features * blocks + queries * whole(plan.E)) <
         vectors;
}

template <typename E>
bool forward_on_tiles(const Tensor& y, const Tensor& logsumexp, const Plan& plan) {
  const AttentionTilesKernels<E>* const kernels = attention_tiles_kernels<E>();
  const bool alike = !plan.has_additive_mask() || plan.in.attn_mask->dtype == plan.in.query.dtype;
  if (!kernels || !alike || !worth_tiles<E>(plan)) return false;
  kernels->forward(y.ptr<E>(), logsumexp.ptr<float>(), plan.attention<E>(plan.in));
  return true;
}

bool forward_on_tiles(const Tensor& y, const Tensor& logsumexp, const Plan& plan) {
  switch (plan.in.query.dtype) {
    case DType::float32:
      return forward_on_tiles<float>(y, logsumexp, plan);
    case DType::bfloat16:
      return forward_on_tiles<bfloat16>(y, logsumexp, plan);
    case DType::float16:
      return forward_on_tiles<float16>(y, logsumexp, plan);
    default:
      return false;
  }
}

// A tensor that vectors take: itself, or widened.
class Wide {
 public:
  explicit Wide(const Tensor& x) : copy_(is_half(x.dtype) ? x.numel() : 0), tensor_(x) {
    if (!is_half(x.dtype)) return;
    widen(copy_.data(), x);
    tensor_.data = copy_.data();
    tensor_.dtype = DType::float32;
  }
  const Tensor& operator*() const { return tensor_; }

 private:
  Workspace<float> copy_;
  Tensor tensor_;
};

constexpr const char* kTiles = "flash, products of bfloat16 on tiles, 32 queries by 128 keys";
constexpr const char* kDecode = "flash decode, lanes along E, 512 keys at a time";

double numel(const Tensor& x) { return static_cast<double>(x.numel()); }

}  // namespace

RngState scaled_dot_product_attention_forward(Output& y, Output& logsumexp,
                                              const AttentionInputs& in,
                                              const AttentionOptions& options,
                                              std::optional<RngState> given) {
  const char* op = "scaled_dot_product_attention";
  Plan plan(op, in, options);
  const int64_t words = plan.dropout ? append(plan.scores.dims, {plan.L, plan.S}).numel() : 0;
  const Tensor& out = y.make(op, plan.y_shape(), in.query.dtype);
  const DType statistic = is_half(in.query.dtype) ? DType::float32 : in.query.dtype;
  const Tensor& lse = logsumexp.make(op, plan.logsumexp_shape(), statistic);
  const RngState rng_state = given          ? *given
                             : plan.dropout ? reserve_random_words(words)
                                            : get_rng_state();
  if (plan.dropout) plan.dropout->rng = rng_state;
  const double arrays = numel(in.query) + numel(in.key) + numel(in.value) + numel(out);
  plan.trace_products("flash, lanes along 64 queries, 128 keys at a time", 2, arrays);
  if (lse.numel() > 0 && on_device([&](const Device& device) {
        cuda::ScaledDotProductAttention{device}.forward(out, lse, plan.device_attention());
      })) {
    return rng_state;
  }
  if (plan.batch.numel() == 0) std::memset(lse.data, 0, logsumexp.bytes());
  if (lse.numel() == 0 || plan.batch.numel() == 0) return rng_state;
  plan.fill_batches();
  const Groups keys(plan, plan.key), values(plan, plan.value);
  const bool decode = decodes(plan, keys, values);
  if (decode) plan.trace_products(kDecode, 2, arrays);
  if (!decode && forward_on_tiles(out, lse, plan)) {
    plan.trace_products(kTiles, 2, arrays);
    return rng_state;
  }
  const Wide query(in.query), key(in.key), value(in.value);
  std::optional<Wide> mask;
  if (in.attn_mask) mask.emplace(*in.attn_mask);
  const AttentionInputs wide = {*query, *key, *value, mask ? &**mask : nullptr};
  const Workspace<float> sums(is_half(out.dtype) ? out.numel() : 0);
  dispatch_float((*query).dtype, [&]<typename T>() {
    const Attention<T> attention = plan.attention<T>(wide);
    T* const to = is_half(out.dtype) ? reinterpret_cast<T*>(sums.data()) : out.ptr<T>();
    if (decode) {
      attention_decode_kernels<T>().forward(to, lse.ptr<T>(), attention, keys.view());
    } else {
      attention_kernels<T>().forward(to, lse.ptr<T>(), attention);
    }
  });
  if (is_half(out.dtype)) narrow(out, sums.data());
  return rng_state;
}

void scaled_dot_product_attention_backward(std::array<Output*, 4> gradients, const Tensor& dy,
                                           const AttentionInputs& in, const Tensor& y,
                                           const Tensor& logsumexp, const AttentionOptions& options,
                                           RngState rng_state, std::array<bool, 4> output_mask) {
  const char* op = "scaled_dot_product_attention_backward";
  Plan plan(op, in, options);
  if (plan.dropout) plan.dropout->rng = rng_state;
  for (const auto& [name, x] : {std::pair("dy", &dy), std::pair("y", &y)}) {
    check_same_dtype(op, name, *x, "query", in.query);
    check_shape(op, name, *x, plan.y_shape());
  }
  check_goes_with(op, "logsumexp", logsumexp, "query", in.query);
  check_shape(op, "logsumexp", logsumexp, plan.logsumexp_shape());
  output_mask[3] = output_mask[3] && plan.has_additive_mask();
  const std::array inputs = {&in.query, &in.key, &in.value, in.attn_mask};
  for (int i = 0; i < 4; ++i) {
    if (output_mask[i]) gradients[i]->make(op, inputs[i]->shape, inputs[i]->dtype);
  }
  const double arrays = 2 * (numel(in.query) + numel(in.key) + numel(in.value) + numel(y));
  plan.trace_products("flash, lanes along 64 owned rows, 128 rows at a time", 7, arrays);
  if (on_device([&](const Device& device) {
        std::array<const Tensor*, 4> wanted{};
        for (int i = 0; i < 4; ++i) wanted[i] = output_mask[i] ? &gradients[i]->tensor() : nullptr;
        cuda::ScaledDotProductAttention{device}.backward(wanted, dy, y, logsumexp,
                                                         plan.device_attention());
      })) {
    return;
  }
  if (logsumexp.numel() > 0) plan.fill_batches();
  const Groups keys(plan, plan.key), values(plan, plan.value);
  const bool decode = decodes(plan, keys, values);
  if (decode) plan.trace_products(kDecode, 5, arrays);
  const bool all = !decode && output_mask[0] && (output_mask[1] || output_mask[2]);
  const int64_t parts = all ? parts_of_heads(plan, keys, values) : 0;
  if (parts > 0) plan.trace_products("flash, parts of heads, 64 keys by 128 queries", 5, arrays);
  dispatch_float(in.query.dtype, [&]<typename T>() {
    const AttentionKernels<T>& kernels = attention_kernels<T>();
    const Attention<T> attention = plan.attention<T>(in);
    const int64_t rows = attention.batch_count * plan.L;
    const Workspace<T> delta(rows);
    kernels.row_dots(delta.data(), dy.ptr<T>(), y.ptr<T>(), rows, plan.Ev);
    const AttentionGradient<T> g = {dy.ptr<T>(), logsumexp.ptr<T>(), delta.data()};
    const auto pointer = [&](int i) {
      return output_mask[i] ? gradients[i]->tensor().template ptr<T>() : nullptr;
    };
    if (output_mask[3]) {
      kernels.backward_mask(pointer(3), attention, g, Groups(plan, plan.mask).view());
    }
    if (decode) {
      if (output_mask[0] || output_mask[1] || output_mask[2]) {
        attention_decode_kernels<T>().backward(pointer(0), pointer(1), pointer(2), attention, g,
                                               keys.view());
      }
      return;
    }
    if (parts > 0) {
      const Workspace<T> partial((parts - 1) * plan.in.query.numel());
      return kernels.backward_all(pointer(0), pointer(1), pointer(2), partial.data(), parts,
                                  attention, g, keys.view());
    }
    if (output_mask[0]) {
      kernels.backward_query(pointer(0), attention, g, Groups(plan, plan.query).view());
    }
    if (keys == values && (output_mask[1] || output_mask[2])) {
      kernels.backward_key_value(pointer(1), pointer(2), attention, g, keys.view());
    } else {
      if (output_mask[1])
        kernels.backward_key_value(pointer(1), nullptr, attention, g, keys.view());
      if (output_mask[2]) {
        kernels.backward_key_value(nullptr, pointer(2), attention, g, values.view());
      }
    }
  });
}

}  // namespace fastdl::ops
