using System.Text.Json;
using Microsoft.FSharp.Collections;
using TorchSharp;

namespace LayerSkip.CSharp.Tests;

/// <summary>
/// A folder with a random float64 model of four layers over bytes, deleted at the end. It recommends exit layer 2 and
/// drafts of 3; its bytes are no valid text, so streams must hold half characters back.
/// </summary>
internal sealed class Tiny : IDisposable
{
    private const int Special = 256;
    private readonly DirectoryInfo root = Directory.CreateTempSubdirectory("layerskip-");

    public Tiny()
    {
        Path = Write("whole");
        File.WriteAllText(System.IO.Path.Combine(Path, "tokenizer.json"), JsonSerializer.Serialize(Tokenizer()));
        WithoutTokenizer = Write("ids");
        Quantised = Quantise();
        Chat = Write("chat");
        File.WriteAllText(System.IO.Path.Combine(Chat, "tokenizer.json"), JsonSerializer.Serialize(Tokenizer()));
        File.WriteAllText(
            System.IO.Path.Combine(Chat, "tokenizer_config.json"),
            JsonSerializer.Serialize(new { bos_token = "<s>", eos_token = "</s>", chat_template = Template }));
        PlainChat = Write("plain");
        File.WriteAllText(System.IO.Path.Combine(PlainChat, "tokenizer.json"), JsonSerializer.Serialize(Tokenizer()));
        File.WriteAllText(
            System.IO.Path.Combine(PlainChat, "tokenizer_config.json"),
            JsonSerializer.Serialize(new { chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}" }));
    }

    /// <summary>A turn between &lt;s&gt; and &lt;/s&gt;, with its role; tools, a variable and the date before all.</summary>
    public static string Template =>
        "{% if tools %}{{ tools[0].function.name }}{% endif %}{% if mood %}{{ mood }}{% endif %}"
        + "{% for message in messages %}{{ '<s>' + message.role[0] + message.content + '</s>' }}{% endfor %}"
        + "{% if add_generation_prompt %}{{ '<s>a' }}{% endif %}";

    public string Path { get; }

    public string WithoutTokenizer { get; }

    /// <summary>The same model with a chat template.</summary>
    public string Chat { get; }

    /// <summary>The same model with a chat template that has no place for tools.</summary>
    public string PlainChat { get; }

    /// <summary>A GGUF file in Q8_0 of another model of four layers, which recommends nothing.</summary>
    public string Quantised { get; }

    public void Dispose() => root.Delete(recursive: true);

    private string Write(string name)
    {
        var folder = root.CreateSubdirectory(name).FullName;
        var config = System.IO.Path.Combine(folder, "config.json");
        File.WriteAllText(config, """
            {"model_type": "llama", "vocab_size": 258, "hidden_size": 16, "intermediate_size": 24,
             "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
             "max_position_embeddings": 96, "tie_word_embeddings": false, "eos_token_id": 257}
            """);
        File.WriteAllText(
            System.IO.Path.Combine(folder, "generation_config.json"),
            """{"eos_token_id": 257, "assistant_early_exit": 2, "num_assistant_tokens": 3}""");

        Backend.ensure();
        using var scope = torch.NewDisposeScope();
        using var weights = WeightsModule.random(
            7, 0.7, LayerSkip.Dtype.F64, LayerSkip.Device.Cpu, LlamaConfigModule.load(config).ResultValue);
        var written = TensorWriter.safetensors(
            System.IO.Path.Combine(folder, "model.safetensors"),
            MapModule.Empty<string, string>(),
            WeightsModule.named(weights));
        return written.IsOk ? folder : throw new InvalidOperationException($"{written.ErrorValue}");
    }

    private string Quantise()
    {
        var path = System.IO.Path.Combine(root.FullName, "q8_0.gguf");
        var config = LlamaConfig.Llama(24, 4, 64, 96, 4, 2, 96);
        using var weights = WeightsModule.random(7, 0.7, LayerSkip.Dtype.F32, LayerSkip.Device.Cpu, config);
        var written = Export.quantise(
            GgufMixModule.tryFind("q8_0").Value, 4, path, CheckpointModule.ofWeights("tiny", weights, null));
        return written.IsOk ? path : throw new InvalidOperationException($"{written.ErrorValue}");
    }

    /// <summary>GPT-2's byte alphabet without merges: a token a byte, and two special ones.</summary>
    private static object Tokenizer()
    {
        bool Printable(int b) => b is (>= '!' and <= '~') or (>= 0xA1 and <= 0xAC) or (>= 0xAE and <= 0xFF);
        var shifted = Enumerable.Range(0, 256).Where(b => !Printable(b)).ToList();
        var vocabulary = Enumerable.Range(0, 256)
            .ToDictionary(b => $"{(char)(Printable(b) ? b : 256 + shifted.IndexOf(b))}");
        return new
        {
            version = "1.0",
            added_tokens = new[] { Added(Special, "<s>"), Added(Special + 1, "</s>") },
            pre_tokenizer = new { type = "ByteLevel", add_prefix_space = false, trim_offsets = true, use_regex = true },
            decoder = new { type = "ByteLevel" },
            model = new { type = "BPE", vocab = vocabulary, merges = Array.Empty<string>() },
        };
    }

    private static object Added(int id, string content) =>
        new { id, content, special = true, lstrip = false, rstrip = false, single_word = false, normalized = false };
}
