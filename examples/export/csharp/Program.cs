// dotnet run bolts.onnx photo.png     (dotnet add package Microsoft.ML.OnnxRuntime; dotnet add package SixLabors.ImageSharp)
using Microsoft.ML.OnnxRuntime;
using SixLabors.ImageSharp;
using SixLabors.ImageSharp.PixelFormats;
using SixLabors.ImageSharp.Processing;

using var session = new InferenceSession(args[0]);
var shape = session.InputMetadata["pixels"].Dimensions.Select(length => (long)length).ToArray();
using var photo = Image.Load<Rgb24>(args[1]);
photo.Mutate(image => image.Resize((int)shape[2], (int)shape[1], KnownResamplers.CatmullRom));
var bytes = new byte[shape[1] * shape[2] * 3];
photo.CopyPixelDataTo(bytes);
using var pixels = OrtValue.CreateTensorValueFromMemory(bytes, shape);
using var outputs = session.Run(new RunOptions(), new Dictionary<string, OrtValue> { ["pixels"] = pixels }, new[] { "score" });
Console.WriteLine($"score {outputs[0].GetTensorDataAsSpan<float>()[0]:F4}");
