using Microsoft.FSharp.Collections;
using Microsoft.FSharp.Core;

namespace LayerSkip.CSharp;

public sealed partial class LayerSkipModel
{
    private const int FormatsKept = 32;

    // What a form has learned of a vocabulary is worth keeping.
    private readonly Dictionary<(ResponseFormat Format, string StopIds), FSharpResult<GrammarState, FSharpList<LayerSkipError>>> formats = [];

    /// <summary>The tokens of a conversation, by the model's own chat template. Nothing that was said becomes a special token.</summary>
    /// <param name="turns">What was said, the first turn first.</param>
    /// <param name="options">Tools and variables of the template, and how the prompt ends.</param>
    /// <exception cref="LayerSkipException">The model has no tokenizer or chat template, or the template refuses the turns.</exception>
    public int[] EncodeChat(IReadOnlyList<ChatTurn> turns, ChatPromptOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(turns);
        return LayerSkip.Chat.prompt(TranslateChat.Request(turns, options ?? new()), checkpoint).OrThrow();
    }

    private FSharpResult<GrammarState, FSharpList<LayerSkipError>> FormatStart(ResponseFormat format, int[] stopIds)
    {
        var tokenizer = CheckpointModule.tokenizer(checkpoint);
        if (tokenizer.IsError)
        {
            return FSharpResult<GrammarState, FSharpList<LayerSkipError>>.NewError(tokenizer.ErrorValue);
        }

        lock (formats)
        {
            var key = (format, string.Join(',', stopIds));
            if (!formats.TryGetValue(key, out var start))
            {
                if (formats.Count >= FormatsKept)
                {
                    formats.Clear();
                }

                start = format.Start(tokenizer.ResultValue, stopIds);
                formats.Add(key, start);
            }

            return start;
        }
    }
}
