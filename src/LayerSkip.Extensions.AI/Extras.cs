using System.Globalization;
using System.Text.Json;
using LayerSkip.CSharp;
using Microsoft.Extensions.AI;

namespace LayerSkip.Extensions.AI;

/// <summary>
/// What ChatOptions.AdditionalProperties say of decoding, in the words of the command line: "exit_layer", "draft_length", and so on.
/// Other names are other clients' and count for nothing.
/// </summary>
internal static class Extras
{
    /// <summary>The names that count, and what each changes.</summary>
    public static IReadOnlyDictionary<string, Func<GenerateOptions, object, GenerateOptions>> Known { get; } =
        new Dictionary<string, Func<GenerateOptions, object, GenerateOptions>>(StringComparer.Ordinal)
        {
            ["exit_layer"] = (options, value) => options with { ExitLayer = Whole(value) },
            ["draft_length"] = (options, value) => options with { DraftLength = Whole(value) },
            ["strategy"] = (options, value) => options with { Strategy = Named(value, Enum.GetValues<Strategy>()) },
            ["policy"] = (options, value) => options with { Policy = Named(value, DraftPolicy.Static, DraftPolicy.Auto, DraftPolicy.Del) },
            ["drafter"] = (options, value) => options with
            {
                Drafter = Named(value, Drafter.Exit, Drafter.Lookup, Drafter.Adapter, Drafter.Cascade, Drafter.Layers),
            },
            ["min_p"] = (options, value) => options with { MinP = Real(value) },
            ["repetition_penalty"] = (options, value) => options with { RepetitionPenalty = Real(value) },
            ["ignore_eos"] = (options, value) => options with { IgnoreEos = Flag(value) },
            ["show_special"] = (options, value) => options with { ShowSpecial = Flag(value) },
        };

    /// <summary>The options with all that the properties say.</summary>
    /// <exception cref="ArgumentException">A value is of a kind that its name does not take.</exception>
    public static GenerateOptions Apply(GenerateOptions options, AdditionalPropertiesDictionary? properties)
    {
        foreach (var (name, value) in properties ?? [])
        {
            if (value is not null && Known.TryGetValue(name, out var change))
            {
                try
                {
                    options = change(options, value);
                }
                catch (Exception e) when (e is FormatException or InvalidCastException or OverflowException or InvalidOperationException)
                {
                    throw new ArgumentException(
                        $"AdditionalProperties[\"{name}\"] is {value}; {e.Message}", nameof(options), e);
                }
            }
        }

        return options;
    }

    // What went through JSON comes back as its elements.
    private static object Plain(object value) =>
        value is JsonElement element
            ? element.ValueKind switch
            {
                JsonValueKind.Number => element.GetDouble(),
                JsonValueKind.String => element.GetString()!,
                JsonValueKind.True => true,
                JsonValueKind.False => false,
                _ => throw new FormatException("it must be a number, a text, true or false"),
            }
            : value;

    private static int Whole(object value)
    {
        var number = Convert.ToDouble(Plain(value), CultureInfo.InvariantCulture);
        return number == Math.Floor(number) ? checked((int)number) : throw new FormatException("it must be a whole number");
    }

    private static double Real(object value) => Convert.ToDouble(Plain(value), CultureInfo.InvariantCulture);

    private static bool Flag(object value) => Convert.ToBoolean(Plain(value), CultureInfo.InvariantCulture);

    /// <summary>One of these, itself or by its name: "self-speculative" is SelfSpeculative.</summary>
    private static T Named<T>(object value, params T[] all)
        where T : notnull
    {
        var given = Plain(value);
        var name = given is string text ? text.Replace("-", "", StringComparison.Ordinal).Replace("_", "", StringComparison.Ordinal) : null;
        var found = all.Where(one => one.Equals(given) || string.Equals($"{one}", name, StringComparison.OrdinalIgnoreCase)).ToArray();
        return found is [var only] ? only : throw new FormatException($"it must be one of {string.Join(", ", all)}");
    }
}
