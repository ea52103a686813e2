using System.Text.Json;
using System.Text.RegularExpressions;
using Expecto;
using Expecto.CSharp;
using static LayerSkip.CSharp.Tests.Support;

namespace LayerSkip.CSharp.Tests;

/// <summary>Forms that a text is held to.</summary>
internal static class FormatTests
{
    private static readonly GenerateOptions Plain = new() { Strategy = Strategy.Autoregressive, MaxNewTokens = 80 };

    public static Test All(Tiny tiny) => Runner.TestList("formats", [
        Case("a text that ends has its form, and speculation writes the same", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            void Has(ResponseFormat format, Func<string, bool> isOf)
            {
                var plain = model.Generate("a", Plain with { ResponseFormat = format });
                Same(
                    model.Generate("a", Plain with { ResponseFormat = format, Strategy = Strategy.SelfSpeculative }).TokenIds,
                    plain.TokenIds,
                    $"{format} by drafts");
                True(plain.FinishReason == FinishReason.Length || isOf(plain.Text!), $"{format} in: {plain.Text}");
            }

            Has(ResponseFormat.Choices("left", "right"), text => text is "left" or "right");
            Has(ResponseFormat.Regex("[0-9]{3}-[a-z]{2}"), text => Regex.IsMatch(text, "^[0-9]{3}-[a-z]{2}$"));
            Has(ResponseFormat.JsonSchema("""{"enum": [true, null, 7]}"""), text => text is "true" or "null" or "7");
            Has(ResponseFormat.JsonSchema<Point>(), text => JsonSerializer.Deserialize<Point>(text) is not null);
            Has(ResponseFormat.JsonSchema(typeof(Point), JsonSerializerOptions.Web), text => JsonSerializer.Deserialize<Point>(text, JsonSerializerOptions.Web) is not null);
            Has(ResponseFormat.Json, text => JsonDocument.Parse(text) is not null);
            Has(ResponseFormat.JsonObject, text => JsonDocument.Parse(text).RootElement.ValueKind == JsonValueKind.Object);
        }),
        Case("a short form is complete", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var result = model.Generate("a", Plain with { ResponseFormat = ResponseFormat.JsonSchema<Flag>(), Temperature = 1, Seed = 4 });
            Equal(result.FinishReason, FinishReason.Stop, "it ends");
            True(JsonSerializer.Deserialize<Flag>(result.Text!) is { }, $"and is read: {result.Text}");
        }),
        Case("what is no form, or cannot be held to, is refused", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            using var without = LayerSkipModel.Load(tiny.WithoutTokenizer);
            // Before any model: when it is made.
            LayerSkipErrorCode Code(Func<ResponseFormat> format) => Throws<LayerSkipException>(() => format()).Code;
            Equal(Code(() => ResponseFormat.Choices()), LayerSkipErrorCode.OptionOutOfRange, "no choice");
            Equal(Code(() => ResponseFormat.Regex("(?=a)b")), LayerSkipErrorCode.Unsupported, "look-around");
            Equal(Code(() => ResponseFormat.JsonSchema("{")), LayerSkipErrorCode.BadFile, "no JSON");
            Throws<LayerSkipException>(() => ResponseFormat.Regex("["));
            foreach (var bad in (Func<ResponseFormat>[])[() => ResponseFormat.JsonSchema("{"), () => ResponseFormat.Choices("")])
            {
                var thrown = Throws<LayerSkipException>(() => model.Generate("a", Plain with { ResponseFormat = bad() }));
                Equal(thrown.OptionName, "ResponseFormat", thrown.Message);
            }

            Refused(() => ResponseFormat.Choices(), "ResponseFormat is empty", "a list of texts");

            Refused(() => model.Generate("a", Plain with { ResponseFormat = ResponseFormat.Json, IgnoreEos = true }), "stop id");
            Refused(() => without.Generate([1], Plain with { ResponseFormat = ResponseFormat.Json }), "tokenizer");
            Throws<ArgumentNullException>(() => ResponseFormat.Regex(null!));
            Throws<ArgumentNullException>(() => ResponseFormat.JsonSchema((Type)null!));
        }),
        Case("forms of the same words are equal", () =>
        {
            True(ResponseFormat.Choices("a", "b").Equals(ResponseFormat.Choices("a", "b")), "choices");
            Equal(ResponseFormat.Json.GetHashCode(), ResponseFormat.Json.GetHashCode(), "hashes");
            True(ResponseFormat.Choices("a", "b") != ResponseFormat.Choices("a, b"), "others");
            Equal($"{ResponseFormat.JsonObject}", "json object", "told");
        }),
    ]);

    private sealed record Point(int X, bool IsSet);

    private sealed record Flag(bool On);
}
