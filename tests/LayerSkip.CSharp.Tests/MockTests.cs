using Expecto;
using Expecto.CSharp;
using static LayerSkip.CSharp.Tests.Support;

namespace LayerSkip.CSharp.Tests;

/// <summary>A program's own test of code that takes a model.</summary>
internal static class MockTests
{
    public static Test All { get; } = Runner.TestList("a stand-in", [
        Case("says what a test wants it to", async () =>
        {
            await using ILayerSkipModel model = new Parrot();
            Equal(model.Info.Name, "parrot", "name");
            Equal(model.Decode(model.Encode("hi")), "hi", "tokens");
            Equal(model.Generate("hi").Text, "hi", "text");
            Equal(model.Generate([1]).TokenIds[0], 1, "ids");
            Equal((await model.GenerateAsync("hi")).Text, "hi", "text later");
            Equal((await model.GenerateAsync([1])).TokenIds[0], 1, "ids later");
            Equal(string.Concat((await model.StreamAsync("hi").ToList()).Select(step => step.Text)), "hi", "stream");
            Equal((await model.StreamAsync([1]).ToList())[^1].Result!.FinishReason, FinishReason.Length, "stream of ids");
            Equal(model.EncodeChat([ChatTurn.User("hi")]).Length, 2, "chat");
            Equal(model.Lens("hi").Tokens.Count, 0, "lens");
            Equal(model.Lens([1]).Exits.Count, 0, "lens of ids");
        }),
    ]);

    /// <summary>Says again what it was prompted with.</summary>
    internal sealed class Parrot : ILayerSkipModel
    {
        public ModelInfo Info { get; } = new() { Name = "parrot", LayerCount = 1, VocabularySize = 256, ContextLength = 99 };

        public int[] Encode(string text, bool parseSpecial = true) => [.. text.Select(letter => (int)letter)];

        public string Decode(IEnumerable<int> ids, bool showSpecial = false) => string.Concat(ids.Select(id => (char)id));

        public int[] EncodeChat(IReadOnlyList<ChatTurn> turns, ChatPromptOptions? options = null) => Encode(turns[^1].Content);

        public GenerateResult Generate(string prompt, GenerateOptions? options = null, CancellationToken cancellationToken = default) =>
            Generate(Encode(prompt), options, cancellationToken);

        public GenerateResult Generate(
            IReadOnlyList<int> promptIds, GenerateOptions? options = null, CancellationToken cancellationToken = default) =>
            new() { PromptIds = promptIds, TokenIds = promptIds, Text = Decode(promptIds), FinishReason = FinishReason.Length };

        public Task<GenerateResult> GenerateAsync(
            string prompt, GenerateOptions? options = null, CancellationToken cancellationToken = default) =>
            Task.FromResult(Generate(prompt));

        public Task<GenerateResult> GenerateAsync(
            IReadOnlyList<int> promptIds, GenerateOptions? options = null, CancellationToken cancellationToken = default) =>
            Task.FromResult(Generate(promptIds));

        public IAsyncEnumerable<GeneratedToken> StreamAsync(
            string prompt, GenerateOptions? options = null, CancellationToken cancellationToken = default) =>
            StreamAsync(Encode(prompt), options, cancellationToken);

        public async IAsyncEnumerable<GeneratedToken> StreamAsync(
            IReadOnlyList<int> promptIds,
            GenerateOptions? options = null,
            [System.Runtime.CompilerServices.EnumeratorCancellation] CancellationToken cancellationToken = default)
        {
            foreach (var id in promptIds)
            {
                await Task.Yield();
                yield return new() { Id = id, Text = Decode([id]), Origin = TokenOrigin.Plain };
            }

            yield return new() { Result = Generate(promptIds) };
        }

        public LensResult Lens(string prompt, LensOptions? options = null, CancellationToken cancellationToken = default) =>
            new() { Tokens = [], FinalTokens = [], Exits = [] };

        public LensResult Lens(
            IReadOnlyList<int> promptIds, LensOptions? options = null, CancellationToken cancellationToken = default) =>
            Lens("", options, cancellationToken);

        public void Dispose()
        {
        }

        public ValueTask DisposeAsync() => ValueTask.CompletedTask;
    }
}
