using System.Runtime.CompilerServices;

namespace LayerSkip.CSharp;

/// <summary>
/// A conversation with a model, over the model's own chat template. Its model keeps what it has read: a turn costs what is new in it. When the
/// context is full, the oldest turns are told no more, or the turn is refused (<see cref="ChatSessionOptions.WhenFull"/>). One turn at a time; any
/// number of sessions share a model.
/// </summary>
public sealed class ChatSession
{
    private readonly ILayerSkipModel model;
    private readonly ChatSessionOptions options;
    private readonly ChatPromptOptions prompt;
    private readonly List<ChatTurn> turns = [];
    private int dropped;
    private int busy;

    /// <summary>A conversation in which nothing was said yet. The model stays its owner's.</summary>
    public ChatSession(ILayerSkipModel model, ChatSessionOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        this.model = model;
        this.options = options ?? new();
        // One date, so that a conversation begins the same at every turn.
        prompt = this.options.Prompt with { Now = this.options.Prompt.Now ?? DateTimeOffset.Now };
        Set(this.options.SystemMessage is { } system ? [ChatTurn.System(system)] : [], 0);
    }

    /// <summary>A conversation that goes on from what was said before, as <see cref="History"/> gave it.</summary>
    /// <param name="model">The model, which stays its owner's.</param>
    /// <param name="history">What was said; with a system message of its own, that takes the options' place.</param>
    /// <param name="options">How it goes on.</param>
    public static ChatSession FromHistory(ILayerSkipModel model, IReadOnlyList<ChatTurn> history, ChatSessionOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(history);
        ChatSession chat = new(model, options);
        chat.Set(SystemCount(history) > 0 ? history : [.. chat.History, .. history], 0);
        return chat;
    }

    /// <summary>
    /// How many of the oldest turns after the system message the model is not told any more, as the context has no room for them; they are in
    /// <see cref="History"/> all the same. See <see cref="ChatSessionOptions.WhenFull"/>.
    /// </summary>
    public int DroppedTurnCount
    {
        get
        {
            lock (turns)
            {
                return dropped;
            }
        }
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
            reply = step.Result is { } result
                ? new() { Turn = TurnOf(result), Result = result, DroppedTurnCount = DroppedTurnCount }
                : reply;
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
        generate ??= options.Generate;
        var (promptIds, untold) = Fitting(asked, asked.Length, generate);
        var result = await model.GenerateAsync(promptIds, generate.EndingAnswers(model.Info), cancellationToken).ConfigureAwait(false);
        ChatReply reply = new() { Turn = TurnOf(result), Result = result, DroppedTurnCount = untold };
        Set([.. asked, reply.Turn], untold);
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
            dropped = Math.Min(dropped, last - SystemCount(turns));
            return true;
        }
    }

    /// <summary>Forgets all but the system message.</summary>
    public void Clear()
    {
        using var turn = new Turn(this);
        var before = History;
        Set([.. before.Take(SystemCount(before))], 0);
    }

    private async IAsyncEnumerable<GeneratedToken> Answer(
        IReadOnlyList<ChatTurn> said, [EnumeratorCancellation] CancellationToken cancellationToken)
    {
        using var turn = new Turn(this);
        var before = History;
        ChatTurn[] asked = [.. before, .. said];
        var (promptIds, untold) = Fitting(asked, before.Count, options.Generate);
        var steps = model.StreamAsync(promptIds, options.Generate.EndingAnswers(model.Info), cancellationToken);
        await foreach (var step in steps.ConfigureAwait(false))
        {
            if (step.Result is { } result)
            {
                Set([.. asked, TurnOf(result)], untold);
            }

            yield return step;
        }
    }

    private static int SystemCount(IReadOnlyList<ChatTurn> turns) => turns is [{ Role: "system" }, ..] ? 1 : 0;

    /// <summary>The tokens of turns, and how many of the oldest are left out of them so that an answer has room.</summary>
    /// <param name="asked">All turns.</param>
    /// <param name="kept">The place from which on questions are never left out.</param>
    /// <param name="generate">How the answer is written.</param>
    private (int[] PromptIds, int Untold) Fitting(ChatTurn[] asked, int kept, GenerateOptions generate)
    {
        var (system, untold) = (SystemCount(asked), DroppedTurnCount);
        var context = model.Info.ContextLength;
        var room = Math.Min(generate.MaxNewTokens, context / 4);
        while (true)
        {
            var promptIds = model.EncodeChat([.. asked[..system], .. asked[(system + untold)..]], prompt);
            var next = Array.FindIndex(asked, Math.Min(system + untold + 1, asked.Length), turn => turn.Role == "user");
            if (options.WhenFull == FullContext.Throw || promptIds.Length + room <= context || next < 0 || next > kept)
            {
                return (promptIds, untold);
            }

            untold = next - system;
        }
    }

    /// <summary>Where there are tools, their calls stand among special tokens, which the text leaves out.</summary>
    private ChatTurn TurnOf(GenerateResult result) =>
        options.Prompt.Tools.Count > 0 && ChatTurn.OfAnswer(model.Decode(result.TokenIds, showSpecial: true)) is { ToolCalls.Count: > 0 } calls
            ? calls
            : ChatTurn.Assistant(result.Text ?? "");

    private void Set(IReadOnlyList<ChatTurn> said, int untold)
    {
        lock (turns)
        {
            turns.Clear();
            turns.AddRange(said);
            dropped = untold;
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
