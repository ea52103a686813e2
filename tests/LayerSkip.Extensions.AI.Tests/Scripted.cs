using System.Runtime.CompilerServices;
using LayerSkip.CSharp;
using LayerSkip.Extensions.AI;

namespace ChatClientTests;

/// <summary>A model that says what a test wants, piece by piece, and keeps what it was asked.</summary>
internal sealed class Scripted(params string[][] answers) : ILayerSkipModel
{
    private int next;

    /// <summary>What each chat was.</summary>
    public List<(IReadOnlyList<ChatTurn> Turns, ChatPromptOptions Prompt)> Chats { get; } = [];

    /// <summary>How each text was asked for.</summary>
    public List<GenerateOptions> Asked { get; } = [];

    public FinishReason Finish { get; init; } = FinishReason.Stop;

    public bool IsDisposed { get; private set; }

    public ModelInfo Info { get; } =
        new() { Name = "scripted", LayerCount = 1, VocabularySize = 256, ContextLength = 999, ChatStopTokenIds = [7] };

    public int[] EncodeChat(IReadOnlyList<ChatTurn> turns, ChatPromptOptions? options = null)
    {
        Chats.Add((turns, options ?? new()));
        return [1, 2, 3];
    }

    public async IAsyncEnumerable<GeneratedToken> StreamAsync(
        IReadOnlyList<int> promptIds,
        GenerateOptions? options = null,
        [EnumeratorCancellation] CancellationToken cancellationToken = default)
    {
        Asked.Add(options!);
        var pieces = answers[next++];
        foreach (var piece in pieces)
        {
            await Task.Yield();
            cancellationToken.ThrowIfCancellationRequested();
            yield return new() { Id = 9, Text = piece, Origin = TokenOrigin.Plain };
        }

        yield return new()
        {
            Result = new()
            {
                PromptIds = promptIds,
                TokenIds = [.. pieces.Select(_ => 9)],
                Text = string.Concat(pieces),
                FinishReason = Finish,
                Statistics = new()
                {
                    DraftRoundCount = 2, DraftTokenCount = 8, AcceptedDraftTokenCount = 5, DraftAcceptanceRate = 0.625, MeanAcceptanceLength = 3.5,
                },
                Timings = new() { TimeToFirstToken = TimeSpan.FromMilliseconds(12), TokensPerSecond = 99 },
            },
        };
    }

    public void Dispose() => IsDisposed = true;

    public ValueTask DisposeAsync()
    {
        Dispose();
        return ValueTask.CompletedTask;
    }

    public int[] Encode(string text, bool parseSpecial = true) => throw new NotSupportedException();

    public string Decode(IEnumerable<int> ids, bool showSpecial = false) => throw new NotSupportedException();

    public GenerateResult Generate(string prompt, GenerateOptions? options = null, CancellationToken cancellationToken = default) =>
        throw new NotSupportedException();

    public GenerateResult Generate(
        IReadOnlyList<int> promptIds, GenerateOptions? options = null, CancellationToken cancellationToken = default) =>
        throw new NotSupportedException();

    public Task<GenerateResult> GenerateAsync(
        string prompt, GenerateOptions? options = null, CancellationToken cancellationToken = default) =>
        throw new NotSupportedException();

    public Task<GenerateResult> GenerateAsync(
        IReadOnlyList<int> promptIds, GenerateOptions? options = null, CancellationToken cancellationToken = default) =>
        throw new NotSupportedException();

    public IAsyncEnumerable<GeneratedToken> StreamAsync(
        string prompt, GenerateOptions? options = null, CancellationToken cancellationToken = default) =>
        throw new NotSupportedException();

    public LensResult Lens(string prompt, LensOptions? options = null, CancellationToken cancellationToken = default) =>
        throw new NotSupportedException();

    public LensResult Lens(IReadOnlyList<int> promptIds, LensOptions? options = null, CancellationToken cancellationToken = default) =>
        throw new NotSupportedException();
}
