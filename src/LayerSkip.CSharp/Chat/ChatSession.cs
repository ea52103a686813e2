using System.Runtime.CompilerServices;

namespace LayerSkip.CSharp;

/// <summary>How a chat goes.</summary>
public sealed record ChatSessionOptions
{
    /// <summary>What the model is told before the conversation; null: nothing.</summary>
    public string? SystemMessage { get; init; }

    /// <summary>
    /// How answers are written. Where it names no stop tokens, they end at those of the model and at the one that its chat template writes
    /// behind an answer.
    /// </summary>
    public GenerateOptions Generate { get; init; } = new() { MaxNewTokens = 1024 };

    /// <summary>What the chat template is given: tools, variables.</summary>
    public ChatPromptOptions Prompt { get; init; } = new();
}

/// <summary>An answer.</summary>
public sealed record ChatReply
{
    /// <summary>The assistant's turn, with the tools that it calls.</summary>
    public required ChatTurn Turn { get; init; }

    /// <summary>The text that was written, with its tokens, statistics and times.</summary>
    public required GenerateResult Result { get; init; }
}

/// <summary>
/// A conversation with a model, over the model's own chat template. Its model keeps what it has read: a turn costs what is new in it. One turn at a
/// time; any number of sessions share a model.
/// </summary>
public sealed class ChatSession
{
    private readonly ILayerSkipModel model;
    private readonly ChatSessionOptions options;
    private readonly List<ChatTurn> turns = [];
    private int busy;

    /// <summary>A conversation in which nothing was said yet. The model stays its owner's.</summary>
    public ChatSession(ILayerSkipModel model, ChatSessionOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        this.model = model;
        this.options = options ?? new();
        Clear();
    }

    /// <summary>What was said, the first turn first: a copy. A turn is in it once it was answered.</summary>
    public IReadOnlyList<ChatTurn> History
    {
        get
        {
            lock (turns)
            {
                return [.. turns];
            }
        }
    }

    /// <summary>Says something, and waits for the answer.</summary>
    /// <exception cref="LayerSkipException">The model has no chat template, the template refuses the turns, or the context is full.</exception>
    public Task<ChatReply> SendAsync(string message, CancellationToken cancellationToken = default) =>
        SendAsync([ChatTurn.User(message)], cancellationToken);

    /// <summary>Adds turns, as the answers of tools, and waits for the answer.</summary>
    /// <exception cref="LayerSkipException">The model has no chat template, the template refuses the turns, or the context is full.</exception>
    public async Task<ChatReply> SendAsync(IReadOnlyList<ChatTurn> said, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(said);
        ChatReply? reply = null;
        await foreach (var step in Answer(said, cancellationToken).ConfigureAwait(false))
        {
            reply = step.Result is { } result ? new() { Turn = TurnOf(result), Result = result } : reply;
        }

        return reply ?? throw new InvalidOperationException("the stream of the model has ended without a result");
    }

    /// <summary>Says something, and streams the answer; leaving it early forgets what was said.</summary>
    /// <exception cref="LayerSkipException">The model has no chat template, the template refuses the turns, or the context is full.</exception>
    public IAsyncEnumerable<GeneratedToken> StreamAsync(string message, CancellationToken cancellationToken = default) =>
        StreamAsync([ChatTurn.User(message)], cancellationToken);

    /// <summary>Adds turns, as the answers of tools, and streams the answer; leaving it early forgets them.</summary>
    /// <exception cref="LayerSkipException">The model has no chat template, the template refuses the turns, or the context is full.</exception>
    public IAsyncEnumerable<GeneratedToken> StreamAsync(
        IReadOnlyList<ChatTurn> said, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(said);
        return Answer(said, cancellationToken);
    }

    /// <summary>Answers the last question again: another text where <see cref="GenerateOptions.Seed"/> and temperature make one.</summary>
    /// <param name="generate">How, this time; null: as the session has it.</param>
    /// <param name="cancellationToken">Ends it; the conversation is then as it was.</param>
    /// <exception cref="InvalidOperationException">There is no answer.</exception>
    public async Task<ChatReply> RegenerateAsync(GenerateOptions? generate = null, CancellationToken cancellationToken = default)
    {
        using var turn = new Turn(this);
        var before = History;
        if (before is not [.., { Role: "assistant" }])
        {
            throw new InvalidOperationException("there is no answer to write again");
        }

        ChatTurn[] asked = [.. before.SkipLast(1)];
        var result = await model.GenerateAsync(Encode(asked), (generate ?? options.Generate).EndingAnswers(model.Info), cancellationToken)
            .ConfigureAwait(false);
        ChatReply reply = new() { Turn = TurnOf(result), Result = result };
        Set([.. asked, reply.Turn]);
        return reply;
    }

    /// <summary>Takes back the last question of the user, with all that came of it; false where there is none.</summary>
    public bool Undo()
    {
        using var turn = new Turn(this);
        lock (turns)
        {
            var last = turns.FindLastIndex(said => said.Role == "user");
            if (last < 0)
            {
                return false;
            }

            turns.RemoveRange(last, turns.Count - last);
            return true;
        }
    }

    /// <summary>Forgets all but the system message.</summary>
    public void Clear()
    {
        using var turn = new Turn(this);
        Set(options.SystemMessage is { } system ? [ChatTurn.System(system)] : []);
    }

    private async IAsyncEnumerable<GeneratedToken> Answer(
        IReadOnlyList<ChatTurn> said, [EnumeratorCancellation] CancellationToken cancellationToken)
    {
        using var turn = new Turn(this);
        ChatTurn[] asked = [.. History, .. said];
        await foreach (var step in model.StreamAsync(Encode(asked), options.Generate.EndingAnswers(model.Info), cancellationToken).ConfigureAwait(false))
        {
            if (step.Result is { } result)
            {
                Set([.. asked, TurnOf(result)]);
            }

            yield return step;
        }
    }

    private int[] Encode(IReadOnlyList<ChatTurn> asked) => model.EncodeChat(asked, options.Prompt);

    /// <summary>Where there are tools, their calls stand among special tokens, which the text leaves out.</summary>
    private ChatTurn TurnOf(GenerateResult result) =>
        options.Prompt.Tools.Count > 0 && ChatTurn.OfAnswer(model.Decode(result.TokenIds, showSpecial: true)) is { ToolCalls.Count: > 0 } calls
            ? calls
            : ChatTurn.Assistant(result.Text ?? "");

    private void Set(IReadOnlyList<ChatTurn> said)
    {
        lock (turns)
        {
            turns.Clear();
            turns.AddRange(said);
        }
    }

    /// <summary>Keeps others out while a turn goes on.</summary>
    private readonly struct Turn : IDisposable
    {
        private readonly ChatSession session;

        public Turn(ChatSession session)
        {
            this.session = session;
            if (Interlocked.Exchange(ref session.busy, 1) != 0)
            {
                throw new InvalidOperationException("a turn goes on: a conversation has one at a time");
            }
        }

        public void Dispose() => Volatile.Write(ref session.busy, 0);
    }
}
