// Classifies raw images with an exported model, without Python: classify MODEL.pt2 IMAGES
//
// MODEL.pt2 is what `cnnzoo export NAME MODEL.pt2 --format aoti` wrote. IMAGES holds 28x28 gray images one after the other,
// a byte a pixel: what Fashion-MNIST's files hold behind their first 16 bytes. Prints a line per image: its number, the
// index of its class, the probability and the class's name, separated by tabs.
//
// To build it: g++ $(python -m cnnzoo.exporting.cpp) -o classify

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <cstdint>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

constexpr int64_t kHeight = 28, kWidth = 28;
constexpr int64_t kBatch = 4096;  // the most images that an exported file takes at once

// A (B, 1, 28, 28) tensor of uint8.
at::Tensor read_images(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + " cannot be read");
  std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const int64_t size = static_cast<int64_t>(bytes.size());
  if (size == 0 || size % (kHeight * kWidth) != 0)
    throw std::runtime_error(path + " has " + std::to_string(size) + " bytes, a multiple of 784 is needed: 28x28 an image");
  return at::from_blob(bytes.data(), {size / (kHeight * kWidth), 1, kHeight, kWidth}, at::kByte).clone();
}

// The class names, which travel inside the file, one a line.
std::vector<std::string> read_labels(torch::inductor::AOTIModelPackageLoader& model) {
  std::istringstream lines(model.get_metadata()["labels"]);
  std::vector<std::string> labels;
  for (std::string line; std::getline(lines, line);) labels.push_back(line);
  if (labels.empty()) throw std::runtime_error("the model has no labels inside: export it again, with --format aoti");
  return labels;
}

int main(int argc, char** argv) try {
  if (argc != 3) throw std::runtime_error("two files are needed: classify MODEL.pt2 IMAGES");
  const at::Tensor images = read_images(argv[2]);

  c10::InferenceMode inference;
  torch::inductor::AOTIModelPackageLoader model(argv[1]);
  const std::vector<std::string> labels = read_labels(model);

  int64_t number = 0;
  for (const at::Tensor& batch : images.split(kBatch)) {
    const std::vector<at::Tensor> outputs = model.run({batch});  // logits and probabilities, both (B, K)
    if (outputs.size() != 2) throw std::runtime_error("the model takes no raw pixels: export it without --no-preprocess");
    const auto [best, index] = outputs[1].max(1);
    for (int64_t i = 0; i < batch.size(0); ++i) {
      const int64_t label = index[i].item<int64_t>();
      std::cout << number++ << '\t' << label << '\t' << best[i].item<float>() << '\t' << labels.at(label) << '\n';
    }
  }
} catch (const c10::Error& e) {
  std::cerr << "classify: " << e.what_without_backtrace() << '\n';
  return 1;
} catch (const std::exception& e) {
  std::cerr << "classify: " << e.what() << '\n';
  return 1;
}
