// g++ -std=c++17 detect.cpp -lonnxruntime $(pkg-config --cflags --libs opencv4) -o detect && ./detect bolts.onnx photo.png
#include <cstdio>
#include <onnxruntime_cxx_api.h>
#include <opencv2/opencv.hpp>

int main(int, char** argv) {
  Ort::Env environment;
  Ort::Session session(environment, argv[1], Ort::SessionOptions());
  auto shape = session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();
  cv::Mat photo = cv::imread(argv[2]);
  cv::resize(photo, photo, cv::Size(shape[2], shape[1]), 0, 0, cv::INTER_AREA);
  cv::cvtColor(photo, photo, cv::COLOR_BGR2RGB);
  auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  auto pixels = Ort::Value::CreateTensor<uint8_t>(memory, photo.data, photo.total() * 3, shape.data(), shape.size());
  const char *in = "pixels", *out = "score";
  auto outputs = session.Run(Ort::RunOptions(), &in, &pixels, 1, &out, 1);
  std::printf("score %.4f\n", outputs[0].GetTensorData<float>()[0]);
}
