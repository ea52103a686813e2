using System.Collections;
using System.Globalization;
using System.Reflection;
using System.Text;

namespace LayerSkip.CSharp;

/// <summary>Records as text whose lists are read: a record alone writes the name of a list's type.</summary>
internal static class Printed
{
    // Of thousands of tokens nobody reads all.
    private const int Most = 32;

    /// <summary>What <c>PrintMembers</c> of a record writes: its members, base's first.</summary>
    public static bool Members(StringBuilder text, object record)
    {
        PropertyInfo[] members =
        [
            .. record.GetType().GetProperties(BindingFlags.Public | BindingFlags.Instance)
                .OrderBy(member => Depth(member.DeclaringType!)),
        ];
        text.AppendJoin(", ", members.Select(member => $"{member.Name} = {Value(member.GetValue(record), false)}"));
        return members is not [];
    }

    private static int Depth(Type type) => type.BaseType is { } parent ? 1 + Depth(parent) : 0;

    private static string Value(object? value, bool inList) =>
        value switch
        {
            null => inList ? "null" : "",
            string text => inList ? $"\"{text}\"" : text,
            IDictionary pairs => List("{", from object key in pairs.Keys select $"{Value(key, true)}: {Value(pairs[key], true)}", pairs.Count, "}"),
            ICollection items => List("[", from object? item in items select Value(item, true), items.Count, "]"),
            IEnumerable items => List("[", from object? item in items select Value(item, true), null, "]"),
            IFormattable number => number.ToString(null, CultureInfo.InvariantCulture),
            _ => $"{value}",
        };

    private static string List(string opening, IEnumerable<string> items, int? count, string closing)
    {
        string[] shown = [.. items.Take(Most + 1)];
        var more = shown.Length <= Most ? "" : count is { } all ? $", ... {all} in all" : ", ...";
        return opening + string.Join(", ", shown.Take(Most)) + more + closing;
    }
}
